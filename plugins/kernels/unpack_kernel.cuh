// Unpacks slabs to plain rows of W for a dense product.  It copies bits and computes nothing.
//
//   block: one panel x kUnpackSlabs columns of slabs        thread: 8 values of one row, one 16-byte store
//   a block first searches the panel's index for the slabs of its columns; a column without a slab is zeros
//
// A warp writes 4 whole rows of a slab, 128 bytes each.  Its loads are words 16 bytes apart, because a
// fragment holds two values of a row.  All of a cache line is used while it is in L1, so each slab is read
// from DRAM once.
#pragma once
#include "kernels/config.h"
#include "kernels/dense_path.h"
#include "kernels/ptx.cuh"

namespace patch {

inline constexpr int kUnpackShared = kUnpackSlabs * 4;
inline constexpr int32_t kNoSlab = -1;

// Reads values 8 * chunk .. + 7 of a row of a dense slab (slabs.cuh); word t belongs to lane 4g + t.
template <int Rows>
PATCH_DEVICE void read_dense(uint32_t (&w)[4], const uint32_t* slab, int row, int chunk) {
  const int block = chunk / 2 * (Rows / 16) + row / 16, lane = row % 8 * 4;
  const uint32_t* from = slab + (block * 32 + lane) * 4 + chunk % 2 * 2 + row / 8 % 2;
  PATCH_UNROLL
  for (int t = 0; t < 4; ++t) w[t] = load_word(from + 4 * t);
}

// Expands `pair`, the kept two of four columns.  nibble: their places, the first in the low two bits.
PATCH_DEVICE void expand(uint32_t& low, uint32_t& high, uint32_t pair, uint32_t nibble) {
  const uint64_t values = static_cast<uint64_t>(pair & 0xffff) << (nibble & 3) * 16 |
                          static_cast<uint64_t>(pair >> 16) << (nibble >> 2 & 3) * 16;
  low = static_cast<uint32_t>(values), high = static_cast<uint32_t>(values >> 32);
}

// Reads values 8 * chunk .. + 7 of a row of a 2:4 slab: two groups of four columns, kept values 4 * chunk ..
// + 3.
template <int Rows>
PATCH_DEVICE void read_sparse(uint32_t (&w)[4], const uint32_t* slab, const uint32_t* meta, int row,
                              int chunk) {
  const int half = row / 8 % 2, lane = row % 8 * 4, kept = chunk % 4;  // of the 4 chunks of a k32
  const int block = chunk / 4 * (Rows / 16) + row / 16;
  const uint32_t* from = slab + (block * 32 + lane + kept % 2 * 2) * 4 + kept / 2 * 2 + half;
  const uint32_t places = load_word(meta + row / 16 * 32 + lane + chunk / 2) >> (16 * half + chunk % 2 * 8);
  expand(w[0], w[1], load_word(from), places);
  expand(w[2], w[3], load_word(from + 4), places >> 4);
}

// Writes a thread's part of a slab.  Issues all loads before the first store.  `width`: values per row of
// `to`.
template <int Rows, class Read>
PATCH_DEVICE void write_slab(uint16_t* to, int64_t width, int thread, const Read& read) {
  constexpr int kEach = Rows * 8 / kUnpackThreads;
  const int row = thread / 8, chunk = thread % 8;
  uint32_t w[kEach][4];
  PATCH_UNROLL
  for (int j = 0; j < kEach; ++j) read(w[j], row + j * (kUnpackThreads / 8), chunk);
  PATCH_UNROLL
  for (int j = 0; j < kEach; ++j)
    store_eight(to + (row + j * (kUnpackThreads / 8)) * width + chunk * 8, w[j]);
}

// Grid: x = a.blocks().
template <int Rows>
PATCH_KERNEL(kUnpackThreads)
patch_unpack(const UnpackArguments a) {
  PATCH_SHARED(shared);
  auto* slab_of = reinterpret_cast<int32_t*>(shared);  // dense slabs count from 0, 2:4 slabs from dense_slabs
  const int thread = thread_index(), groups = a.groups();
  const int panel = static_cast<int>(block_index() / groups);  // among the packed panels of this launch
  const int first = static_cast<int>(block_index() % groups) * kUnpackSlabs;
  const int packed = a.first_panel * a.sides + panel, all = a.all_panels * a.sides;
  const int32_t *dense_ptr = a.index + packed, *sparse_ptr = a.index + all + 1 + packed;
  const int32_t* columns = a.index + 2 * (all + 1);
  const int32_t first_dense = load_index(dense_ptr), dense = load_index(dense_ptr + 1) - first_dense;
  const int32_t first_sparse = load_index(sparse_ptr), sparse = load_index(sparse_ptr + 1) - first_sparse;

  if (thread < kUnpackSlabs) store_shared_word(slab_of + thread, static_cast<uint32_t>(kNoSlab));
  sync_block();
  for (int i = thread; i < dense + sparse; i += kUnpackThreads) {
    const int32_t slab = i < dense ? first_dense + i : a.dense_slabs + first_sparse + i - dense;
    const uint32_t column = static_cast<uint32_t>(load_index(columns + slab)) - first;
    if (column < kUnpackSlabs) store_shared_word(slab_of + column, static_cast<uint32_t>(slab));
  }
  sync_block();

  const int side = panel % a.sides, piece_panel = side * a.panels + panel / a.sides;
  const int64_t width = static_cast<int64_t>(a.slabs) * kSlabColumns;
  uint16_t* to = a.weight + static_cast<int64_t>(piece_panel) * Rows * width + first * kSlabColumns;
  for (int s = 0; s < kUnpackSlabs && first + s < a.slabs; ++s, to += kSlabColumns) {
    const auto slab = static_cast<int32_t>(load_shared_word(slab_of + s));
    if (slab == kNoSlab) {
      write_slab<Rows>(to, width, thread, [](uint32_t (&w)[4], int, int) { w[0] = w[1] = w[2] = w[3] = 0; });
    } else if (slab < a.dense_slabs) {
      const auto* from = reinterpret_cast<const uint32_t*>(a.dense) + int64_t{slab} * Rows * 32;
      write_slab<Rows>(to, width, thread, [from](uint32_t (&w)[4], int row, int chunk) {
        read_dense<Rows>(w, from, row, chunk);
      });
    } else {
      const int64_t number = slab - a.dense_slabs;
      const auto* from = reinterpret_cast<const uint32_t*>(a.sparse) + number * Rows * 16;
      const uint32_t* meta = a.meta + number * Rows * 2;
      write_slab<Rows>(to, width, thread, [from, meta](uint32_t (&w)[4], int row, int chunk) {
        read_sparse<Rows>(w, from, meta, row, chunk);
      });
    }
  }
}

}  // namespace patch
