// A kind of slab for test_new_kind.py: dense weights of 8 bits (e5m2), the upper halves of fp16 values.
//
//   [k16: 4][16-row block][lane: 32][8 bytes]     the order of a dense slab of 16-bit weights
#pragma once
#include "kernels/units.cuh"

namespace patch {

template <class T, class G>
class Float8 {
 public:
  static constexpr int kValueBytes = G::kPanelRows * kSlabColumns;
  static constexpr int kExtraBytes = 0;
  static constexpr bool kSparse = false;

  template <int Step>
  PATCH_DEVICE void load(const uint8_t* slot, const Place<G>& at) {
    PATCH_UNROLL
    for (int m = 0; m < G::kWarpRows; ++m) {
      const uint8_t* from = slot + at.fragment / 2 + (Step * G::kRowBlocks + m) * 256;
      bytes_[Step % kBuffers][m][0] = load_shared_word(from);
      bytes_[Step % kBuffers][m][1] = load_shared_word(from + 4);
    }
  }
  PATCH_DEVICE void begin_slab() {}
  template <int Step>
  PATCH_DEVICE void multiply(float (&c)[4], int m, uint32_t b0, uint32_t b1) const {
    uint32_t a[4];
    PATCH_UNROLL
    for (int i = 0; i < 4; ++i) {
      const uint32_t pair = bytes_[Step % kBuffers][m][i / 2] >> 16 * (i % 2);
      a[i] = (pair & 0xff) << 8 | (pair & 0xff00) << 16;
    }
    T::mma(c, a, b0, b1);
  }

 private:
  static constexpr int kBuffers = Units<G, kSparse>::kBuffers;
  uint32_t bytes_[kBuffers][G::kWarpRows][2];
};

}  // namespace patch
