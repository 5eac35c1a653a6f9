// Turns stored integers into 16-bit values, two at a time, exactly.
//
//   fp16    a number n < 1024 beside the exponent of 1024 (0x6400) is 1024 + n: subtract 1024 and the bias.
//           4 bits that are 4 places higher are 1024 + 16 n, and need no shift
//   bf16    a number n < 128 beside that of 128 (0x4300) is 128 + n: the same for 4 bits.  A byte has one bit
//           more: its lower 7 bits become 128 + n, and its top bit chooses what is subtracted, 128 or 256
//
// T has `add` and `multiply`, and Half `multiply_add`, which round each of two values once.
#pragma once
#include "kernels/place.cuh"

namespace patch {

inline constexpr int kByteBias = 128, kNibbleBias = 8;
template <class G>
inline constexpr int kBiasOf = G::kWeights == Weights::kInt4 ? kNibbleBias : kByteBias;

template <class T>
struct IntegersOf;

template <>
struct IntegersOf<Half> {
  // The integers in bytes `Low` and `High` of a word, less their bias.
  template <int Bias, int Low, int High>
  PATCH_DEVICE static uint32_t bytes(uint32_t word) {
    return Half::add(select_bytes(word, 0x64646464u, 0x4040 | High << 8 | Low),
                     0xe400e400u + Bias * 0x10001u);
  }
  // The integers in bits 4 I .. 4 I + 3 of each half word, less their bias.
  template <int I>
  PATCH_DEVICE static uint32_t nibbles(uint32_t word) {
    const uint32_t here = word >> I / 2 * 8;
    if constexpr (I % 2 == 0)
      return Half::add(keep_bits(here, 0x000f000fu, 0x64006400u), 0xe400e400u + kNibbleBias * 0x10001u);
    const uint32_t bias = 0xd400d400u + kNibbleBias * 0x100010u;  // -64 and the bias
    return Half::multiply_add(keep_bits(here, 0x00f000f0u, 0x64006400u), 0x2c002c00u, bias);
  }
};

template <>
struct IntegersOf<BFloat16> {
  template <int Bias, int Low, int High>
  PATCH_DEVICE static uint32_t bytes(uint32_t word) {
    const uint32_t pair = select_bytes(word, 0x43434343u, 0x4040 | High << 8 | Low);
    if constexpr (Bias == kNibbleBias) return BFloat16::add(pair, 0xc300c300u + kNibbleBias * 0x10001u);
    // 256 differs from 128 by the bit at the place of a byte's top bit.
    return BFloat16::add(pair & 0xff7fff7fu, (pair & 0x00800080u) ^ 0xc380c380u);
  }
  template <int I>
  PATCH_DEVICE static uint32_t nibbles(uint32_t word) {
    return BFloat16::add(keep_bits(word >> 4 * I, 0x000f000fu, 0x43004300u),
                         0xc300c300u + kNibbleBias * 0x10001u);
  }
};

// The scales of a slab of int4, behind its values: a word [16-row block][g: 8], the low half for row g, the
// high half for row g + 8.  Slabs of int8 have none: theirs multiply the sums (epilogue.cuh).
template <class T, class G>
class SlabScales {
 public:
  // scales: where they begin in a slot.
  PATCH_DEVICE void load(int m, const uint8_t* scales, const Place<G>& at) {
    if constexpr (G::kWeights == Weights::kInt4)
      words_[m] = load_shared_word(scales + (at.feature_warp * G::kWarpRows + m) * 32 + at.group * 4);
  }
  // Those that were loaded last are used from now on.
  PATCH_DEVICE void begin_slab(int m) {
    if constexpr (G::kWeights == Weights::kInt4)
      pairs_[m][0] = select_bytes(words_[m], 0, 0x1010), pairs_[m][1] = select_bytes(words_[m], 0, 0x3232);
  }
  // The weights of two integers of row block m's low or high row.
  PATCH_DEVICE uint32_t weights(int m, int half, uint32_t integers) const {
    if constexpr (G::kWeights == Weights::kInt4)
      return T::multiply(integers, pairs_[m][half]);
    else
      return integers;
  }

 private:
  static constexpr int kHeld = G::kWeights == Weights::kInt4 ? G::kWarpRows : 1;
  uint32_t words_[kHeld], pairs_[kHeld][2];
};

}  // namespace patch
