// The kernel for few tokens.  All slabs of all tiles form one row, which is cut into parts of equal cost, one
// per block (work.h).  One block per panel would leave most of the device idle: 4096 rows are 32 panels for
// 108 SMs.
//
//      tile 0                tile 1          tile 2
//      |-------------------|---------------|-----------------------|
//      part 0        part 1        part 2         part 3
//      |-------------|-------------|--------------|----------------|
//
// If several parts share a tile, the block that ends last adds up their sums in fp32.  It always adds in the
// order of the parts, so that results repeat bit for bit.  No block waits for another.  The ring continues
// across tiles.
#pragma once
#include "kernels/multiply.cuh"
#include "kernels/output.cuh"

namespace patch {

// Returns the panel of the tile at position `start`.  All lanes of a warp search together, for the same
// position.
template <class G>
PATCH_DEVICE int find_panel(const LinearArguments& a, int64_t tiles, int64_t start) {
  const int32_t* dense_ptr = a.index;
  const int32_t* sparse_ptr = dense_ptr + a.panels * G::kPanels + 1;
  int low = 0, count = a.panels;  // panel `low` begins at or before `start`, panel low + count after it
  while (count > 1) {
    const int step = (count + 31) / 32, probe = (thread_index() & 31) * step;
    bool before = false;
    if (probe < count) {
      const int panel = low + probe, packed = panel * G::kPanels;
      const int64_t cost = static_cast<int64_t>(panel) * kTileCost +
                           slabs_cost(load_index(dense_ptr + packed), load_index(sparse_ptr + packed));
      before = tiles * cost <= start;
    }
    const int votes = count_votes(before);
    const int passed = votes > 0 ? (votes - 1) * step : 0;  // none: the index lies
    low += passed;
    count = count - passed < step ? count - passed : step;
  }
  return low;
}

// Walks a block through its part, tile by tile, with the slabs of each tile that belong to the block.
template <class G>
class Cursor {
 public:
  Panel<G> panel;
  int token_tile;
  int64_t start;  // position of the tile
  int slab, end;  // the tile's slabs that are left to do

  PATCH_DEVICE Cursor(const LinearArguments& a, int64_t total)
      : Cursor(a, part_begin(static_cast<int>(block_index()), total, a.parts),
               part_begin(static_cast<int>(block_index()) + 1, total, a.parts)) {}

  // Returns true if there is a current tile.
  PATCH_DEVICE bool more() const { return start < stop_; }
  PATCH_DEVICE int first_token() const { return token_tile * G::kTokens; }

  PATCH_DEVICE void next_tile(const LinearArguments& a) {
    start += tile_cost(panel.dense, panel.sparse);
    if (++token_tile == tiles_) {
      token_tile = 0;
      // After the last panel there is nothing more, unless the index lies.
      if (more()) panel = Panel<G>(a, at_most(panel.number + 1, a.panels - 1));
    }
    slab = 0;
    end = more() ? slabs_before(stop_ - start, panel.dense, panel.sparse) : 0;
  }
  // Goes to the next slab, across tiles without slabs.  Returns true if it lies in another tile.  For a
  // cursor that is used slab by slab.
  PATCH_DEVICE bool next_slab(const LinearArguments& a) {
    ++slab;
    return skip_empty(a);
  }
  PATCH_DEVICE bool skip_empty(const LinearArguments& a) {
    if (slab < end || !more()) return false;
    while (slab >= end && more()) next_tile(a);
    return true;
  }

 private:
  PATCH_DEVICE Cursor(const LinearArguments& a, int64_t begin, int64_t stop)
      : panel(a, find_panel<G>(a, a.token_tiles(G::kTokens), begin)),
        tiles_(a.token_tiles(G::kTokens)),
        stop_(stop) {
    const int64_t cost = tile_cost(panel.dense, panel.sparse);
    const int64_t before =
        static_cast<int64_t>(panel.number) * kTileCost + slabs_cost(panel.first_dense, panel.first_sparse);
    const int64_t tile = (begin - before * tiles_) / cost;
    token_tile = static_cast<int>(tile);
    // If the index lies, none of the panel's tiles may hold `begin`.  The block then does nothing.
    start = tile >= 0 && tile < tiles_ ? before * tiles_ + tile * cost : stop_;
    slab = slabs_before(begin - start, panel.dense, panel.sparse);
    end = slabs_before(stop - start, panel.dense, panel.sparse);
    // All units of the tile may start before `begin`; the tile then belongs to earlier parts.
    if (begin > start && slab == panel.dense + panel.sparse) next_tile(a);
  }

  int tiles_;
  int64_t stop_;
};

template <class G, class Function>
PATCH_DEVICE void for_each_fragment(Sums<G>& sums, const Function& function) {
  PATCH_UNROLL
  for (int f = 0; f < G::kPanels; ++f) {
    PATCH_UNROLL
    for (int m = 0; m < G::kWarpRows; ++m) {
      PATCH_UNROLL
      for (int n = 0; n < G::kWarpTokens; ++n)
        function(sums[f][m][n], (f * G::kWarpRows + m) * G::kWarpTokens + n);
    }
  }
}

// Partial sums have the layout of the accumulators, four values per thread: [slot][fragment][thread][4].
template <class G>
PATCH_DEVICE float* partial_sums(const LinearArguments& a, int slot, int fragment, int thread) {
  return a.partials + static_cast<int64_t>(slot) * G::kTileSums + (fragment * G::kThreads + thread) * 4;
}

// Stores this block's sums of a tile that the parts first .. last share.  Returns true in the block that ends
// last; `sums` then holds the whole tile.
//
// Slots: a part has at most one tile that begins before it (slot 2 * part), and at most one that begins in it
// and continues after it (slot 2 * part + 1).
template <class G>
PATCH_DEVICE bool add_up(Sums<G>& sums, const LinearArguments& a, int first, int last, const Place<G>& at) {
  const int part = static_cast<int>(block_index());
  const auto slot = [first](int of) { return 2 * of + (of == first ? 1 : 0); };
  for_each_fragment<G>(sums, [&](float (&values)[4], int fragment) {
    store_partials(partial_sums<G>(a, slot(part), fragment, at.thread), values);
  });
  fence_device();  // makes the sums visible to other blocks before the block is counted
  sync_block();
  const bool ends = at.thread == 0 && count_arrival(a.counters + first) == last - first;
  if (!sync_block_any(ends)) return false;
  fence_device();  // no sums are read before all blocks are counted
  clear<G>(sums);
  for (int from = first; from <= last; ++from)
    for_each_fragment<G>(sums, [&](float (&values)[4], int fragment) {
      float share[4];
      load_partials(share, partial_sums<G>(a, slot(from), fragment, at.thread));
      PATCH_UNROLL
      for (int j = 0; j < 4; ++j) values[j] += share[j];
    });
  if (at.thread == 0) reset_counter(a.counters + first);  // for the next launch
  return true;
}

// The slabs of a block's part, across its tiles.
template <class T, class G>
class PartSupply {
 public:
  PATCH_DEVICE PartSupply(const LinearArguments& a, const Cursor<G>& begin, Policy policy, int thread)
      : a_(a), ahead_(begin), copies_(a, policy, thread) {
    ahead_.skip_empty(a);
    if (!ahead_.more()) return;
    column_ = ahead_.panel.column(a_, ahead_.slab);
    copies_.begin_tile(ahead_.first_token());
    aim();
  }
  template <int Share, int Shares>
  PATCH_DEVICE void copy(uint8_t* slot) const {
    copies_.template copy<Share, Shares>(slot);
  }
  PATCH_DEVICE bool more() const { return more_; }
  PATCH_DEVICE void next() { aim(); }

 private:
  // Aims at the slab of the cursor, and moves the cursor on to load the next column.
  PATCH_DEVICE void aim() {
    more_ = ahead_.more();
    copies_.aim(ahead_.panel, ahead_.slab, column_, more_);
    if (ahead_.next_slab(a_)) copies_.begin_tile(ahead_.first_token());
    column_ = ahead_.panel.column(a_, ahead_.slab);
  }

  const LinearArguments& a_;
  Cursor<G> ahead_;
  SlabCopies<T, G, Policy> copies_;
  bool more_ = false;  // there is a slab to copy
  int column_ = 0;     // K / 64 of the cursor's slab
};

// Grid: x = parts.
template <class T, int C>
PATCH_KERNEL(Geometry<C>::kThreads)
patch_stream(const LinearArguments a) {
  using G = Geometry<C>;
  PATCH_SHARED(shared);
  const Place<G> at;
  const int64_t total = a.total_cost(a.token_tiles(G::kTokens));
  // With one tile of tokens each weight is read once, so it need not evict X from L2.
  const Policy policy = a.tokens <= G::kTokens ? weights_read_once() : weights_read_again();

  Cursor<G> work(a, total);
  PartSupply<T, G> supply(a, work, policy, at.thread);
  Ring<G, PartSupply<T, G>> ring(shared, supply, SlabCopies<T, G, Policy>::place(at.thread));
  for (; work.more(); work.next_tile(a)) {
    Sums<G> sums;
    clear<G>(sums);
    multiply_slabs<T, G>(sums, work.panel, work.slab, work.end, ring, at);

    const int first = part_of(work.start, total, a.parts);
    const int last = at_most(
        part_of(work.start + last_unit(work.panel.dense, work.panel.sparse), total, a.parts), a.parts - 1);
    if (first != last && !add_up<G>(sums, a, first, last, at)) continue;
    finish<T, G>(sums, a, work.panel.number, work.first_token(), at);
    write_from_registers<T, G>(sums[0], a, work.panel.number, work.first_token(), at);
  }
  ring.finish();
}

}  // namespace patch
