// Decodes dense slabs of 16-bit weights: their bytes are the fragments of mma.m16n8k16.
//
//   [k16: 4][16-row block][lane: 32][8 values]
#pragma once
#include "kernels/units.cuh"

namespace patch {

// A decoder makes operand A of what lies in a slot.  Every decoder is a class like this one; streams.cuh
// names the one of each stream of slabs.  A slab has 4 steps of 16 columns for mma, 2 of 32 for mma.sp.
template <class T, class G>
class Dense16 {
 public:
  // Bytes of a slab in the first and in the second tensor of its stream.  In a slot they lie one after the
  // other.
  static constexpr int kValueBytes = G::kPanelRows * kSlabColumns * 2;
  static constexpr int kExtraBytes = 0;
  static constexpr bool kSparse = false;  // the products are mma.sp's

  // Loads what the products of a step need.  Those of kAhead units before them are still to be computed.
  template <int Step>
  PATCH_DEVICE void load(const uint8_t* slot, const Place<G>& at) {
    PATCH_UNROLL
    for (int m = 0; m < G::kWarpRows; ++m)
      load_shared(weights_[Step % kBuffers][m], slot + at.fragment + (Step * G::kRowBlocks + m) * 512);
  }
  // Begins to multiply the slab of which step 0 is loaded.
  PATCH_DEVICE void begin_slab() {}
  // Adds to c the product of the warp's row block m with 8 tokens, of 16 columns: b0, b1 of mma's operand B.
  template <int Step>
  PATCH_DEVICE void multiply(float (&c)[4], int m, uint32_t b0, uint32_t b1) const {
    T::mma(c, weights_[Step % kBuffers][m], b0, b1);
  }

 private:
  static constexpr int kBuffers = Units<G, kSparse>::kBuffers;
  uint32_t weights_[kBuffers][G::kWarpRows][4];
};

}  // namespace patch
