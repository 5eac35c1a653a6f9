// Decodes 2:4 slabs of 16-bit weights: their bytes are the fragments of mma.sp.m16n8k32, and its metadata.
//
//   values     [k32: 2][16-row block][lane: 32][8 values]   the kept half
//   metadata   [16-row block][lane: 32] words               low half row g, high half row g + 8;
//                                                           lanes 4g, 4g + 1: first k32 (selector 0),
//                                                           4g + 2, 4g + 3: second
#pragma once
#include "kernels/units.cuh"

namespace patch {

// See Dense16 for what a decoder has.
template <class T, class G>
class Sparse24 {
 public:
  static constexpr int kValueBytes = G::kPanelRows * kSlabColumns;
  static constexpr int kExtraBytes = G::kPanelRows * 8;
  static constexpr bool kSparse = true;

  template <int Step>
  PATCH_DEVICE void load(const uint8_t* slot, const Place<G>& at) {
    PATCH_UNROLL
    for (int m = 0; m < G::kWarpRows; ++m) {
      load_shared(weights_[Step][m], slot + at.fragment + (Step * G::kRowBlocks + m) * 512);
      if (Step == 0) next_places_[m] = load_shared_word(slot + kValueBytes + at.fragment / 4 + m * 128);
    }
  }
  PATCH_DEVICE void begin_slab() {
    PATCH_UNROLL
    for (int m = 0; m < G::kWarpRows; ++m) places_[m] = next_places_[m];
  }
  // The same with 32 columns: b0 to b3 of mma.sp's operand B.
  template <int Step>
  PATCH_DEVICE void multiply(float (&c)[4], int m, const uint32_t (&b)[4]) const {
    T::template mma_sp<Step>(c, weights_[Step][m], b, places_[m]);
  }

 private:
  uint32_t weights_[2][G::kWarpRows][4];
  uint32_t places_[G::kWarpRows], next_places_[G::kWarpRows];  // metadata of this slab and of the next one
};

}  // namespace patch
