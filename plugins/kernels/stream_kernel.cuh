// The kernel for few tokens.  All slabs of all tiles form one row, which is cut into parts of equal cost, one
// per block (work.h).  One block per panel would leave most of the device idle: 4096 rows are 32 panels for
// 108 SMs.
//
//      tile 0                tile 1          tile 2
//      |-------------------|---------------|-----------------------|
//      part 0        part 1        part 2         part 3
//      |-------------|-------------|--------------|----------------|
//
// The table of parts (parts.h) says where each block begins, so a block searches nothing.
//
// If several parts share a tile, the block that ends last adds up their sums, in fp32 or in int32.  It always
// adds in the order of the parts, so that results repeat bit for bit.  No block waits for another.  The ring
// continues across tiles.
#pragma once
#include "kernels/multiply.cuh"
#include "kernels/output.cuh"

namespace patch {

// Walks a block through its part, tile by tile, with the slabs of each tile that belong to the block.
template <class G>
class Cursor {
 public:
  Panel<G> panel;
  int token_tile;
  int tile;       // number of the tile among all
  int slab, end;  // the tile's slabs that are left to do

  // begin, stop: tile and slab where the part begins, and where the next one does.
  PATCH_DEVICE Cursor(const StreamArguments& s, int begin_tile, int begin_slab, int stop_tile, int stop_slab)
      : panel(s, begin_tile / s.linear.token_tiles(G::kTokens)),
        token_tile(begin_tile - panel.number * s.linear.token_tiles(G::kTokens)),
        tile(begin_tile),
        slab(begin_slab),
        tiles_(s.linear.token_tiles(G::kTokens)),
        left_(stop_tile - begin_tile + (stop_slab > 0)),
        stop_(stop_slab) {
    end = slabs_here();
  }

  // Returns true if there is a current tile.
  PATCH_DEVICE bool more() const { return left_ > 0; }
  PATCH_DEVICE int first_token() const { return token_tile * G::kTokens; }

  PATCH_DEVICE void next_tile(const StreamArguments& s) {
    --left_;
    ++tile;
    if (++token_tile == tiles_) {
      token_tile = 0;
      if (more()) panel = Panel<G>(s, panel.number + 1);
    }
    slab = 0;
    end = slabs_here();
  }
  // The slabs from here on.
  PATCH_DEVICE SlabWalk<G> walk(const StreamArguments& s) const {
    return {s, panel.number, token_tile, left_, slab, stop_};
  }

 private:
  PATCH_DEVICE int slabs_here() const {
    if (left_ <= 0) return 0;
    return left_ == 1 && stop_ > 0 ? stop_ : panel.slabs();
  }

  int tiles_;  // token tiles
  int left_;   // tiles of the part from this one on
  int stop_;   // slabs of the last of them that belong to the part; 0: all
};

template <class G>
PATCH_DEVICE Cursor<G> begin_part(const StreamArguments& s, int part) {
  return Cursor<G>(s, part_tile(s.table, part), part_slab(s.table, part), part_tile(s.table, part + 1),
                   part_slab(s.table, part + 1));
}

// The parts that share a tile, first and last.
struct Sharing {
  int first, last;
};
// begins, ends: this part has slabs of the tile that are not the first, or not the last ones.  A part that
// begins at a slab of the tile other than its first one shares it with the part before.
PATCH_DEVICE Sharing parts_of(const PartTable& t, int part, int tile, bool begins, bool ends) {
  Sharing s{part, part};
  const auto begins_inside = [&](int p) { return part_tile(t, p) == tile && part_slab(t, p) > 0; };
  if (begins) --s.first;
  while (begins && begins_inside(s.first)) --s.first;
  if (ends) ++s.last;
  while (ends && begins_inside(s.last + 1)) ++s.last;
  return s;
}

template <class G, class Function>
PATCH_DEVICE void for_each_fragment(Sums<G>& sums, const Function& function) {
  PATCH_UNROLL
  for (int m = 0; m < G::kWarpRows; ++m) {
    PATCH_UNROLL
    for (int n = 0; n < G::kWarpTokens; ++n) function(sums[m][n], m * G::kWarpTokens + n);
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
  for_each_fragment<G>(sums, [&](Sum<G>(&values)[4], int fragment) {
    store_partials(partial_sums<G>(a, slot(part), fragment, at.thread), values);
  });
  sync_block();  // the block's sums come before its count, which releases them to the block that ends last
  const bool ends = at.thread == 0 && count_arrival(a.counters + first) == last - first;
  if (!sync_block_any(ends)) return false;
  clear<G>(sums);
  for (int from = first; from <= last; ++from)
    for_each_fragment<G>(sums, [&](Sum<G>(&values)[4], int fragment) {
      Sum<G> share[4];
      load_partials(share, partial_sums<G>(a, slot(from), fragment, at.thread));
      PATCH_UNROLL
      for (int j = 0; j < 4; ++j) values[j] += share[j];
    });
  if (at.thread == 0) reset_counter(a.counters + first);  // for the next launch
  return true;
}

// Grid: x = parts.
template <class T, int C>
PATCH_KERNEL_OF(Geometry<C>::kThreads, Geometry<C>::kRegisterBlocks)
patch_stream(const StreamArguments s) {
  using G = Geometry<C>;
  PATCH_SHARED(shared);
  const Place<G> at;
  const LinearArguments& a = s.linear;
  const int part = static_cast<int>(block_index());
  // With one tile of tokens each weight is read once, so it need not evict X from L2.
  const Policy policy = a.tokens <= G::kTokens ? weights_read_once() : weights_read_again();

  Cursor<G> work = begin_part<G>(s, part);
  StreamSupply<T, G> supply(a, work.walk(s), part_column(s.table, part), policy, at.thread);
  wait_for_earlier_launches();
  Ring<G, StreamSupply<T, G>> ring(shared, supply, SlabCopies<T, G, Policy>::place(at.thread));
  for (; work.more(); work.next_tile(s)) {
    Sums<G> sums;
    clear<G>(sums);
    multiply_slabs<T, G>(sums, work.panel, work.slab, work.end, ring, at);

    const auto [first, last] =
        parts_of(s.table, part, work.tile, work.slab > 0, work.end < work.panel.slabs());
    if (first != last && !add_up<G>(sums, a, first, last, at)) continue;
    write_from_registers<T, G>(sums, a, work.panel.number, work.first_token(), at);
  }
  ring.finish();
}

}  // namespace patch
