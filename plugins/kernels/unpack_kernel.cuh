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
#include "kernels/place.cuh"

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

// Reads values 8 * chunk .. + 7 of a row of an n:16 slab (decode_of_sixteen.cuh).  Word t holds
// two neighbouring positions of lane 4g + t.
template <int Rows, int Kept>
PATCH_DEVICE void read_of_sixteen(uint32_t (&w)[4], const uint16_t* slab, const uint32_t* masks, int row,
                                  int chunk) {
  const int half = row / 8 % 2, first = chunk / 2 * 4 + chunk % 2 * 2;
  PATCH_UNROLL
  for (int t = 0; t < 4; ++t) {
    const int lane = row / 16 * 32 + row % 8 * 4 + t;
    const uint32_t mask = load_word(masks + lane) >> 16 * half & 0xffff;
    const auto value = [&](int position) -> uint32_t {
      if (!(mask >> position & 1)) return 0;
      const int rank = count_bits(mask & ((1u << position) - 1));
      return load_value(slab + (rank < 8 ? (half * Rows * 2 + lane) * 8 + rank
                                         : Rows * 32 + (lane * 2 + half) * (Kept - 8) + rank - 8));
    };
    w[t] = value(first) | value(first + 1) << 16;
  }
}

// Writes a thread's part of a slab.  Issues all loads before the first store.  `width`: 16-bit words per row
// of `to`; Words: of a row of the slab.
template <int Rows, int Words = kSlabColumns, class Read>
PATCH_DEVICE void write_slab(uint16_t* to, int64_t width, int thread, const Read& read) {
  constexpr int kChunks = Words / 8, kRowsAtOnce = kUnpackThreads / kChunks, kEach = Rows / kRowsAtOnce;
  const int row = thread / kChunks, chunk = thread % kChunks;
  uint32_t w[kEach][4];
  PATCH_UNROLL
  for (int j = 0; j < kEach; ++j) read(w[j], row + j * kRowsAtOnce, chunk);
  PATCH_UNROLL
  for (int j = 0; j < kEach; ++j) store_eight(to + (row + j * kRowsAtOnce) * width + chunk * 8, w[j]);
}

// The same row by row, for reads that would take too many registers at once.
template <int Rows, class Read>
PATCH_DEVICE void write_rows(uint16_t* to, int64_t width, int thread, const Read& read) {
  const int chunk = thread % 8;
  PATCH_NO_UNROLL
  for (int row = thread / 8; row < Rows; row += kUnpackThreads / 8) {
    uint32_t w[4];
    read(w, row, chunk);
    store_eight(to + row * width + chunk * 8, w);
  }
}

// Searches the slabs of the block's panel and columns, and calls write(to, width, slabs, number, packed,
// kind) for each: where its rows lie in W, 16-bit words per row there, the slabs of its kind and its number
// among them, the number of its panel, and its kind as an Index.  Words: of a row of a slab.
template <int Rows, int Words = kSlabColumns, class Write>
PATCH_DEVICE void for_each_slab(const UnpackArguments& a, uint8_t* shared, int thread, const Write& write) {
  auto* slab_of = reinterpret_cast<int32_t*>(shared);  // numbers count through all kinds
  const int groups = a.groups();
  const int panel = static_cast<int>(block_index() / groups);  // among those of this launch
  const int first = static_cast<int>(block_index() % groups) * kUnpackSlabs;
  const int packed = a.first_panel + panel, pointers = a.all_panels + 1;

  if (thread < kUnpackSlabs) store_shared_word(slab_of + thread, static_cast<uint32_t>(kNoSlab));
  sync_block();
  for (int kind = 0; kind < a.kinds; ++kind) {
    const int32_t* pointer = a.index + kind * pointers + packed;
    const int32_t begin = load_index(pointer), count = load_index(pointer + 1) - begin;
    for (int i = thread; i < count; i += kUnpackThreads) {
      const int32_t slab = a.slabs[kind].before + begin + i;
      const uint32_t column = static_cast<uint32_t>(load_index(a.index + a.kinds * pointers + slab)) - first;
      if (column < kUnpackSlabs) store_shared_word(slab_of + column, static_cast<uint32_t>(slab));
    }
  }
  sync_block();

  const int64_t width = static_cast<int64_t>(a.columns) * Words;
  uint16_t* to = a.weight + static_cast<int64_t>(panel) * Rows * width + first * Words;
  for (int s = 0; s < kUnpackSlabs && first + s < a.columns; ++s, to += Words) {
    const auto slab = static_cast<int32_t>(load_shared_word(slab_of + s));
    if (slab == kNoSlab)
      write_slab<Rows, Words>(to, width, thread,
                              [](uint32_t (&w)[4], int, int) { w[0] = w[1] = w[2] = w[3] = 0; });
    for_each_index<kKindCount>([&](auto kind) {
      const Slabs& own = a.slabs[decltype(kind)::value];
      const int64_t number = slab - own.before;
      if (number >= 0 && number < own.count) write(to, width, own, number, packed, kind);
    });
  }
}

// Grid: x = a.blocks().
template <int Rows>
PATCH_KERNEL(kUnpackThreads)
patch_unpack(const UnpackArguments a) {
  wait_for_earlier_launches();
  let_next_launch_begin();
  PATCH_SHARED(shared);
  const int thread = thread_index();
  for_each_slab<Rows>(
      a, shared, thread, [&](uint16_t* to, int64_t width, const Slabs& own, int64_t number, int, auto index) {
        constexpr int kind = decltype(index)::value;
        const uint16_t* values = own.values + number * Rows * 4 * kKinds[kind].values;
        const uint32_t* extra = own.extra + number * Rows * 2;
        const auto* words = reinterpret_cast<const uint32_t*>(values);
        if constexpr (kind == 0)
          write_slab<Rows>(to, width, thread, [words](uint32_t (&w)[4], int row, int chunk) {
            read_dense<Rows>(w, words, row, chunk);
          });
        else if constexpr (kind == 1)
          write_slab<Rows>(to, width, thread, [words, extra](uint32_t (&w)[4], int row, int chunk) {
            read_sparse<Rows>(w, words, extra, row, chunk);
          });
        else
          write_rows<Rows>(to, width, thread, [values, extra](uint32_t (&w)[4], int row, int chunk) {
            read_of_sixteen<Rows, kKinds[kind].values>(w, values, extra, row, chunk);
          });
      });
}

}  // namespace patch
