// Unpacks slabs of w8a8 to plain rows of int8 for a dense product, as unpack_kernel.cuh does with 16-bit
// weights.  It copies bytes and computes nothing.  Columns are in the order of X: their places in a slab are
// said in decode_bytes.cuh.
#pragma once
#include "kernels/unpack_kernel.cuh"

namespace patch {

// Elements of a slab in its two tensors.
template <int Rows, int Kind>
inline constexpr int kByteValues = Rows * value_bytes(Kind, Weights::kW8A8) / 2;
template <int Rows, int Kind>
inline constexpr int kByteExtra = Rows * extra_bytes(Kind, Weights::kW8A8) / 4;

// Reads columns 16 * chunk .. + 15 of a row of a dense slab; word i is columns 4 i .. 4 i + 3 of them.
template <int Rows>
PATCH_DEVICE void read_dense_bytes(uint32_t (&w)[4], const uint32_t* slab, int row, int chunk) {
  const int lane = row % 8 * 4 + chunk, half = row / 8 % 2;
  PATCH_UNROLL
  for (int i = 0; i < 4; ++i)
    w[i] = load_word(slab + ((i / 2 * (Rows / 16) + row / 16) * 32 + lane) * 4 + i % 2 * 2 + half);
}

// Expands a pair of bytes, the kept two of four columns.  nibble: their places, the first in the low two
// bits.
PATCH_DEVICE uint32_t expand_bytes(uint32_t pair, uint32_t nibble) {
  return (pair & 255) << (nibble & 3) * 8 | pair >> 8 << (nibble >> 2 & 3) * 8;
}

// Reads the same columns of a 2:4 slab.
PATCH_DEVICE void read_sparse_bytes(uint32_t (&w)[4], const uint16_t* slab, const uint32_t* meta, int row,
                                    int chunk) {
  const int lane = row / 16 * 32 + row % 8 * 4, half = row / 8 % 2;
  PATCH_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int own = lane + i % 2 * 2 + chunk / 2;
    const uint32_t places = load_word(meta + lane + half + i / 2 * 2) >> 4 * (i % 2 * 4 + chunk);
    w[i] = expand_bytes(load_value(slab + (own * 4 + i / 2 * 2 + half) * 2 + chunk % 2), places);
  }
}

// Adds columns 2 .. 5 of 8 neighbours, which a 6:8 slab has behind a 2:4 slab.  Where one of the two has a
// weight, the other has a zero.
template <int Rows>
PATCH_DEVICE void add_middle_bytes(uint32_t (&w)[4], const uint16_t* slab, const uint32_t* meta, int row,
                                   int chunk) {
  const int block = row / 16, half = row / 8 % 2;
  const uint32_t places = load_word(meta + kByteExtra<Rows, 1> + block * 16 + row % 8 * 2 + half);
  PATCH_UNROLL
  for (int h = 0; h < 2; ++h) {
    const int group = 4 * h + chunk, lane = block * 32 + row % 8 * 4 + group / 2;
    const uint32_t four = expand_bytes(
        load_value(slab + kByteValues<Rows, 1> + (lane * 2 + half) * 2 + group % 2), places >> 4 * group);
    w[2 * h] |= four << 16, w[2 * h + 1] |= four >> 16;
  }
}

// Grid: x = a.blocks().  A row of a slab is 32 words of two bytes.
template <int Rows>
PATCH_KERNEL_OF(kUnpackThreads, 3)
patch_unpack_bytes(const UnpackArguments a) {
  constexpr int kWords = kSlabColumns / 2;
  wait_for_earlier_launches();
  let_next_launch_begin();
  PATCH_SHARED(shared);
  const int thread = thread_index();
  for_each_slab<Rows, kWords>(
      a, shared, thread, [&](uint16_t* to, int64_t width, const Slabs& own, int64_t number, int, auto index) {
        constexpr int kind = decltype(index)::value;
        if constexpr (kind < kByteKindCount) {
          const uint16_t* values = own.values + number * kByteValues<Rows, kind>;
          const uint32_t* extra = own.extra + number * kByteExtra<Rows, kind>;
          write_slab<Rows, kWords>(to, width, thread, [=](uint32_t (&w)[4], int row, int chunk) {
            if constexpr (kind == 0)
              read_dense_bytes<Rows>(w, reinterpret_cast<const uint32_t*>(values), row, chunk);
            else
              read_sparse_bytes(w, values, extra, row, chunk);
            if constexpr (kind == 2) add_middle_bytes<Rows>(w, values, extra, row, chunk);
          });
        }
      });
}

}  // namespace patch
