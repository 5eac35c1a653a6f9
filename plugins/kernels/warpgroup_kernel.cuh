// The kernel for many tokens on Hopper, whose tensor cores reach their full rate only by wgmma.  As in
// tile_kernel.cuh, a block computes one tile of Y over all of K, and a slot of its ring holds a slab and the
// tile of X beside it.  One warpgroup copies, two multiply.  What they do with a slot:
//
//   copies    wait until it is empty | slab by a bulk copy, X by cp.async, some slabs ahead | fence, full
//   products  wait until it is full  | A fragments to registers, wgmma reads X in the slot  | empty
//
//      a slot's barriers      full: all bytes of the slab, and X of every thread that copies
//                             empty: every warp that multiplies
//
// Blocks of a cluster have the same panel and neighbouring token tiles.  Each copies a part of every slab to
// all of them, so that a slab comes from L2 once; a slot is then empty when it is empty in all blocks.
//
// The registers of wgmma's A are those of mma, and X's swizzle is the one that its descriptors know, so the
// packed format is the same.
#pragma once
#include "kernels/output.cuh"
#include "kernels/tile_kernel.cuh"
#include "kernels/warpgroup.h"
#include "kernels/warpgroup_ptx.cuh"

namespace patch {

// The slots and their barriers.
template <class G>
struct Slots {
  uint8_t* ring;
  Mbarrier *full, *empty;

  PATCH_DEVICE explicit Slots(uint8_t* shared)
      : ring(swizzle_aligned(shared)),
        full(reinterpret_cast<Mbarrier*>(ring + G::kRingBytes)),
        empty(full + G::kStages) {}
  // Called by one thread, before a barrier of the block.
  PATCH_DEVICE void begin() {
    PATCH_UNROLL
    for (int i = 0; i < G::kStages; ++i) {
      init_mbarrier(full + i, G::kCopyThreads + 1);
      init_mbarrier(empty + i, G::kThreads / 32 * G::kCluster);
    }
    fence_async_proxy();  // bulk copies see the barriers
    if constexpr (G::kCluster > 1) fence_mbarriers();
  }
  // Copies a slab's values or metadata, or this block's part of them to all blocks of the cluster.
  PATCH_DEVICE void copy(uint8_t* to, const void* from, int bytes, Mbarrier* bar) const {
    if constexpr (G::kCluster == 1) return copy_bulk(to, from, bytes, bar);
    const int part = bytes / G::kCluster, at = cluster_rank() * part;
    copy_bulk_to(to + at, static_cast<const uint8_t*>(from) + at, part, bar, (1 << G::kCluster) - 1);
  }
  // Called by a warp that multiplies: it no longer reads the slot of this barrier, null for none.  A lane
  // arrives for all of them, at its own block or at each of the cluster.
  PATCH_DEVICE void give_back(Mbarrier* bar, int lane) const {
    sync_warp();  // also for none: inside of a branch it makes ptxas serialize the products
    if (!bar) return;
    if constexpr (G::kCluster == 1) {
      if (lane == 0) arrive(bar);
    } else {
      if (lane < G::kCluster) arrive_at(bar, lane);
    }
  }
};

// A walk through the slots: the number of the slot, and the parity of its barriers' phase.
template <class G>
struct Walk {
  int slot = 0;
  uint32_t parity = 0;

  PATCH_DEVICE void next() {
    if (++slot < G::kStages) return;
    slot = 0, parity ^= 1;
  }
};

// The copies of X of one thread: 16 bytes of every kRows-th row of a tile.
template <class G>
class TokenCopies {
 public:
  PATCH_DEVICE TokenCopies(const LinearArguments& a, int first_token, int thread)
      : a_(a),
        column_(thread % kChunks * 8),
        place_(G::kDenseBytes + thread / kChunks * 128 + ((thread % kChunks ^ (thread / kChunks & 7)) << 4)),
        tokens_left_(a.tokens - first_token - thread / kChunks),
        x_(a.x + static_cast<int64_t>(first_token + thread / kChunks) * a.in_features) {}

  // Copies the 64 columns from 64 * `column`.  What is beyond `tokens` or `in_features` is zero and not read,
  // as in SlabCopies.
  PATCH_DEVICE void copy(uint8_t* slot, int column) const {
    const uint32_t k = static_cast<uint32_t>(column) * kSlabColumns + column_;
    const uint32_t columns = a_.in_features;
    const int low = k < columns ? tokens_left_ : 0;
    const int high = k < columns && columns - k > 4 ? tokens_left_ : 0;
    const uint16_t* from = x_ + k;
    for_each_index<G::kTokens / kRows>([&](auto index) {
      constexpr int j = decltype(index)::value;
      copy_tokens_async<j * kRows * 128>(slot + place_,
                                         from + static_cast<int64_t>(j * kRows) * a_.in_features,
                                         low > j * kRows, high > j * kRows, a_.x_vector);
    });
  }

 private:
  static constexpr int kChunks = kSlabColumns / 8;
  static constexpr int kRows = G::kCopyThreads / kChunks;  // rows that are copied at a time
  static_assert(kRows % 8 == 0, "a thread stays in one column of the swizzle");

  const LinearArguments& a_;
  int column_, place_, tokens_left_;
  const uint16_t* x_;
};

// Fills slots with the slabs of a panel.  A slot counts as full `kBehind` slabs after its copies began.
template <class G>
PATCH_DEVICE void fill_slots(const Slots<G>& slots, const LinearArguments& a, const Panel<G>& panel,
                             int first_token, int thread) {
  // The slot of slab i + kStages is free only when slab i + 1 is multiplied (see multiply_slabs_of).
  constexpr int kBehind = G::kStages - 2;
  const TokenCopies<G> tokens(a, first_token, thread);
  const int slabs = panel.slabs(), dense = panel.ends[0];
  const auto column_of = [&](int i) {
    return i < dense ? load_index(columns_of<G>(a, 0) + panel.first[0] + i)
                     : load_index(columns_of<G>(a, 1) + panel.first[1] + i - dense);
  };
  int column = slabs > 0 ? column_of(0) : 0;
  Walk<G> fill, done;
  for (int i = 0; i < slabs + kBehind; ++i) {
    if (i < slabs) {
      uint8_t* slot = slots.ring + fill.slot * G::kStageBytes;
      Mbarrier* full = slots.full + fill.slot;
      wait_phase(slots.empty + fill.slot, fill.parity ^ 1);
      if (thread == 0) {
        if (i < dense) {
          const int64_t row = panel.first[0] + i;
          arrive_expecting(full, G::kDenseBytes);
          slots.copy(slot, a.slabs[0].values + row * (G::kDenseBytes / 2), G::kDenseBytes, full);
        } else {
          const int64_t row = panel.first[1] + i - dense;
          arrive_expecting(full, G::kSparseBytes + G::kMetaBytes);
          slots.copy(slot, a.slabs[1].values + row * (G::kSparseBytes / 2), G::kSparseBytes, full);
          slots.copy(slot + G::kSparseBytes, a.slabs[1].extra + row * (G::kMetaBytes / 4), G::kMetaBytes,
                     full);
        }
      }
      tokens.copy(slot, column);
      if (i + 1 < slabs) column = column_of(i + 1);
      fill.next();
    }
    commit_copies();
    if (i < kBehind) continue;
    wait_copies<kBehind>();
    fence_async_proxy();  // wgmma reads what cp.async wrote
    arrive(slots.full + done.slot);
    done.next();
  }
}

// Multiplies `slabs` slabs of one kind.  Products of one half of a slab are in flight while the fragments of
// the next half are loaded, into other registers.
template <class T, class G, bool Sparse>
PATCH_DEVICE void multiply_slabs_of(Accumulators<G>& sums, int slabs, const Slots<G>& slots, Walk<G>& walk,
                                    const Place<G>& at) {
  constexpr int kSteps = Sparse ? 1 : 2;        // products of a half: 32 columns of W, or 16
  constexpr int kStepBytes = Sparse ? 64 : 32;  // of a row of X
  float (&c)[G::kWarpTokens][4] = sums[0];
  uint32_t weights[2][kSteps][4], places[2];
  const int first_row = G::kDenseBytes + at.token_warp * G::kWarpTokens * 8 * 128;
  Mbarrier* last = nullptr;  // of the slab before
  for (; slabs > 0; --slabs) {
    const uint8_t* slot = slots.ring + walk.slot * G::kStageBytes;
    const Matrix x = describe_matrix(slot + first_row);
    for_each_index<2>([&](auto index) {
      constexpr int half = decltype(index)::value;
      wait_products<1>();  // the products before those of the last half are done
      if constexpr (half == 0)
        wait_phase(slots.full + walk.slot, walk.parity);
      else
        slots.give_back(last, at.lane);
      PATCH_UNROLL
      for (int s = 0; s < kSteps; ++s)
        load_shared(weights[half][s], slot + at.fragment + (half * kSteps + s) * G::kRowBlocks * 512);
      if constexpr (Sparse) places[half] = load_shared_word(slot + G::kSparseBytes + at.fragment / 4);
      fence_products();
      for_each_index<kSteps>([&](auto step) {
        constexpr int s = decltype(step)::value;
        const Matrix columns = further_along(x, (half * kSteps + s) * kStepBytes);
        if constexpr (Sparse)
          Warpgroup<T>::template multiply_sp<half>(c, weights[half][s], columns, places[half]);
        else
          Warpgroup<T>::multiply(c, weights[half][s], columns);
      });
      commit_products();
    });
    last = slots.empty + walk.slot;
    walk.next();
  }
  // Products of another shape may follow, or the sums are read.
  wait_products<0>();
  pin(c);
  slots.give_back(last, at.lane);
}

// A barrier of the block, or of its cluster.
template <class G>
PATCH_DEVICE void sync_all() {
  if constexpr (G::kCluster > 1)
    sync_cluster();
  else
    sync_block();
}

// Grid: x = panels * token tiles, a multiple of the cluster.
template <class T, int C>
PATCH_KERNEL(WarpgroupGeometry<C>::kBlockThreads)
PATCH_CLUSTER(WarpgroupGeometry<C>::kCluster) patch_warpgroups(const LinearArguments a) {
  using G = WarpgroupGeometry<C>;
  PATCH_SHARED(shared);
  Slots<G> slots(shared);
  const Assignment block(a, G::kTokens * G::kCluster, block_index() / G::kCluster);
  const Panel<G> panel(a, block.panel);
  const int rank = G::kCluster > 1 ? cluster_rank() : 0;
  const int first_token = (block.token_tile * G::kCluster + rank) * G::kTokens;
  if (thread_index() == 0) slots.begin();
  wait_for_earlier_launches();
  let_next_launch_begin();
  sync_all<G>();
  if (thread_index() >= G::kThreads) {
    give_registers<G::kCopyRegisters>();
    fill_slots<G>(slots, a, panel, first_token, thread_index() - G::kThreads);
    sync_all<G>();  // the two barriers around the output tile
    sync_block();
    return;
  }
  take_registers<G::kRegisters>();
  const Place<G> at;
  Walk<G> walk;
  Sums<G> sums;
  clear<G>(sums);
  const int dense = panel.ends[0], sparse = panel.ends[1] - dense;
  if constexpr (G::kGated) {
    multiply_slabs_of<T, G, false>(sums[0], panel.gate[0], slots, walk, at);
    multiply_slabs_of<T, G, false>(sums[1], dense - panel.gate[0], slots, walk, at);
    multiply_slabs_of<T, G, true>(sums[0], panel.gate[1], slots, walk, at);
    multiply_slabs_of<T, G, true>(sums[1], sparse - panel.gate[1], slots, walk, at);
  } else {
    multiply_slabs_of<T, G, false>(sums[0], dense, slots, walk, at);
    multiply_slabs_of<T, G, true>(sums[0], sparse, slots, walk, at);
  }
  sync_all<G>();  // the output tile overwrites the ring, and no other block arrives here or copies any more
  write_through_shared<T, G>(sums, a, block.panel, first_token, slots.ring, at);
}

}  // namespace patch
