// Rounds X to integers, row by row, before products of w8a8:
//
//   m = max |x|,  q = round(x * (127 / m)),  scale = m / 127, each rounded to fp32
//
// A row with m < 2^-100 counts as zeros: its q and its scale are 0.  A row with an infinity or a NaN has the
// scale NaN, and q = 0, so that all its outputs are NaN.
//
// Some warps share a row.  Each thread has 16 columns at a time, and reads them twice: the second time they
// come from a cache.
#pragma once
#include <cmath>

#include "kernels/any_scalar.cuh"
#include "kernels/place.cuh"

namespace patch {

inline constexpr int kQuantiseThreads = 256;
inline constexpr int kQuantiseWarps = kQuantiseThreads / 32;
inline constexpr int kQuantiseShared = kQuantiseWarps * sizeof(uint32_t);

struct QuantiseArguments {
  const uint16_t* x;  // [tokens, in_features]
  int8_t* rounded;    // [tokens, padded_columns(in_features)]
  float* scales;      // [tokens]
  int32_t tokens;
  int32_t in_features;
  int32_t x_vector;       // as in LinearArguments
  int32_t warps_per_row;  // a power of two
  Scalar scalar;          // type of X

  explicit QuantiseArguments(const LinearArguments& a)
      : x(a.x),
        rounded(a.rounded),
        scales(a.token_scales),
        tokens(a.tokens),
        in_features(a.in_features),
        x_vector(a.x_vector),
        warps_per_row(1),
        scalar(a.scalar) {
    while (warps_per_row < kQuantiseWarps && 32 * warps_per_row < chunks()) warps_per_row *= 2;
  }
  // Of 16 columns of a row.
  PATCH_BOTH int32_t chunks() const { return static_cast<int32_t>(padded_columns(in_features) / 16); }
  PATCH_BOTH int32_t rows_per_block() const { return kQuantiseWarps / warps_per_row; }
  PATCH_BOTH int64_t blocks() const { return (int64_t{tokens} + rows_per_block() - 1) / rows_per_block(); }
};

// Loads 16 columns of a row, of which `left` are there: a multiple of 4.  Others are zeros.
PATCH_DEVICE void load_sixteen(uint32_t (&pairs)[8], const uint16_t* p, int left, int vector) {
  PATCH_UNROLL
  for (int i = 0; i < 2; ++i) {
    uint32_t four[4] = {};
    if (vector == 8) {
      if (left > 8 * i) load_eight(four, p + 8 * i);
    } else {
      PATCH_UNROLL
      for (int half = 0; half < 2; ++half) {
        uint32_t two[2] = {};
        if (left > 8 * i + 4 * half) load_four(two, p + 8 * i + 4 * half);
        four[2 * half] = two[0], four[2 * half + 1] = two[1];
      }
    }
    PATCH_UNROLL
    for (int j = 0; j < 4; ++j) pairs[4 * i + j] = four[j];
  }
}

// The bits of |x| as a number: it grows with |x|, that of an infinity is above all others, a NaN's above it.
PATCH_DEVICE uint32_t magnitude(uint32_t value) { return value & 0x7fffu; }

// The integers of 4 values, as bytes.  None is beyond 127: the product of m and 127 / m rounds to less than
// 127.5.
PATCH_DEVICE uint32_t round_four(const AnyScalar& type, uint32_t low, uint32_t high, float inverse) {
  uint32_t bytes = 0;
  PATCH_UNROLL
  for (int i = 0; i < 4; ++i) {
    const float x = type.widen(static_cast<uint16_t>((i < 2 ? low : high) >> 16 * (i % 2)));
    const int32_t q = nearest_integer(multiply_alone(x, inverse));
    bytes |= (static_cast<uint32_t>(q) & 0xffu) << 8 * i;
  }
  return bytes;
}

// Grid: x = a.blocks().
PATCH_KERNEL(kQuantiseThreads)
patch_quantise(const QuantiseArguments a) {
  wait_for_earlier_launches();
  let_next_launch_begin();
  PATCH_SHARED(shared);
  const AnyScalar type(a.scalar);
  const int warp = thread_index() >> 5, of_row = warp % a.warps_per_row;
  const int64_t row = block_index() * a.rows_per_block() + warp / a.warps_per_row;
  const bool there = row < a.tokens;
  const int first = of_row * 32 + (thread_index() & 31), step = 32 * a.warps_per_row;
  const uint16_t* x = a.x + row * a.in_features;
  const int chunks = there ? a.chunks() : 0;

  uint32_t most = 0, pairs[8];
  for (int chunk = first; chunk < chunks; chunk += step) {
    load_sixteen(pairs, x + chunk * 16, a.in_features - chunk * 16, a.x_vector);
    PATCH_UNROLL
    for (int i = 0; i < 16; ++i) {
      const uint32_t own = magnitude(pairs[i / 2] >> 16 * (i % 2));
      most = own > most ? own : most;
    }
  }
  PATCH_UNROLL
  for (int distance = 16; distance > 0; distance /= 2) {
    const uint32_t other = shuffle(most, thread_index() ^ distance);
    most = other > most ? other : most;
  }
  auto* of_warps = reinterpret_cast<uint32_t*>(shared);
  if ((thread_index() & 31) == 0) store_shared_word(of_warps + warp, most);
  sync_block();
  for (int i = 0; i < a.warps_per_row; ++i) {
    const uint32_t other = load_shared_word(of_warps + warp - of_row + i);
    most = other > most ? other : most;
  }

  const float m = type.widen(static_cast<uint16_t>(most));
  const bool finite = most < type.infinity(), zeros = m < 0x1p-100f;
  const float inverse = finite && !zeros ? divide(127.f, m) : 0.f;
  if (there && first == 0) store_scale(a.scales + row, !finite ? NAN : zeros ? 0.f : divide(m, 127.f));
  int8_t* to = a.rounded + row * padded_columns(a.in_features);
  for (int chunk = first; chunk < chunks; chunk += step) {
    uint32_t bytes[4] = {};
    if (finite) {
      load_sixteen(pairs, x + chunk * 16, a.in_features - chunk * 16, a.x_vector);
      PATCH_UNROLL
      for (int i = 0; i < 4; ++i) bytes[i] = round_four(type, pairs[2 * i], pairs[2 * i + 1], inverse);
    }
    store_bytes(to + chunk * 16, bytes);
  }
}

}  // namespace patch
