// Dense and 2:4 slabs of w8a8: their bytes are the fragments of mma.m16n8k32.s8 or mma.sp.m16n8k64.s8, and
// its metadata.  Column 16 t + 4 i + b of a slab is at place 16 i + 4 t + b of the products, so that a lane's
// operands of X are 16 bytes that lie one after the other (units.cuh).
//
//   dense      [k32: 2][16-row block][lane: 32][k16 of the k32: 2][row half: 2][4 bytes]
//   2:4        [16-row block][lane: 32][half of the kept: 2][row half: 2][4 bytes], in the order of places
//   metadata   [16-row block][lane: 32] words: of row g + 8 * (t % 2), places 32 * (t / 2) and the next 31
#pragma once
#include "kernels/units.cuh"

namespace patch {

template <class G, bool Sparse>
// NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): `load` does it.
class Bytes {
 public:
  static constexpr int kValueBytes = G::kPanelRows * value_bytes(Sparse, G::kWeights);
  static constexpr int kExtraBytes = G::kPanelRows * extra_bytes(Sparse);
  static constexpr bool kSparse = Sparse;

  // Loads the warp's row block m of a slab.  Products with the one before it must be begun.
  PATCH_DEVICE void load(int m, const uint8_t* slot, const Place<G>& at) {
    PATCH_UNROLL
    for (int k32 = 0; k32 < kSteps; ++k32)
      load_shared(weights_[k32][m], slot + at.fragment + (k32 * G::kRowBlocks + m) * 512);
    if constexpr (Sparse) places_[m] = load_shared_word(slot + kValueBytes + at.fragment / 4 + m * 128);
  }
  static constexpr int kSteps = Sparse ? 1 : 2;
  // Adds to c the product of row block m with 8 tokens: of 32 columns, or of all if the slab is sparse.
  template <int Step>
  PATCH_DEVICE void multiply(int32_t (&c)[4], int m, const uint32_t (&b)[4]) const {
    if constexpr (Sparse)
      multiply_bytes_sparse(c, weights_[0][m], b, places_[m]);
    else
      multiply_bytes(c, weights_[Step][m], b[2 * Step], b[2 * Step + 1]);
  }

 private:
  uint32_t weights_[kSteps][G::kWarpRows][4];
  uint32_t places_[Sparse ? G::kWarpRows : 1];
};

}  // namespace patch
