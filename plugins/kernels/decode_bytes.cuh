// Slabs of w8a8: their bytes are the fragments of mma.m16n8k32.s8 or mma.sp.m16n8k64.s8, and its metadata.
// Column 16 t + 4 i + b of a slab is at place 16 i + 4 t + b of the products, so that a lane's operands of X
// are 16 bytes that lie one after the other (units.cuh).
//
//   dense      [k32: 2][16-row block][lane: 32][k16 of the k32: 2][row half: 2][4 bytes]
//   2:4        [16-row block][lane: 32][half of the kept: 2][row half: 2][4 bytes], in the order of places
//   metadata   [16-row block][lane: 32] words: of row g + 8 * (t % 2), places 32 * (t / 2) and the next 31
//
// Six of 8 columns are three windows of 4 that overlap by 2, each of them 2:4: columns 0 .. 3, 2 .. 5 and 4
// .. 7. The first and the third windows are a 2:4 slab.  The middle ones are half as wide, and follow it:
//
//   middle     [16-row block][lane: 32][row half: 2][4 bytes]: the kept ones of places 16 h + 4 t + b (h = 0,
//   1),
//              which are columns 16 t + 8 h + 2 + b
//   metadata   [16-row block][g: 8][row half: 2] words: of row g + 8 * row half, all 32 places
//
// In tile kernels the middle windows of two slabs are one product of mma.sp.m16n8k64, of which the first
// slab's are places 0 .. 31.  In streams they are a product of mma.sp.m16n8k32, which takes fewer registers;
// it may be slower than half of the other.
#pragma once
#include "kernels/units.cuh"

namespace patch {

template <class G, int Kind>
// NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): `load` does it.
class Bytes {
 public:
  static constexpr int kValueBytes = G::kPanelRows * value_bytes(Kind, G::kWeights);
  static constexpr int kExtraBytes = G::kPanelRows * extra_bytes(Kind, G::kWeights);
  static constexpr bool kSparse = Kind > 0;
  static constexpr bool kMiddle = Kind > 1;                               // it has middle windows
  static constexpr bool kPairs = kMiddle && G::kKernel == Kernel::kTile;  // slabs are multiplied in pairs

  // Loads the warp's row block m of a slab, without the middle windows of a pair's.  Products with the one
  // before it must be begun.
  PATCH_DEVICE void load(int m, const uint8_t* slot, const Place<G>& at) {
    PATCH_UNROLL
    for (int k32 = 0; k32 < kFragments; ++k32)
      load_shared(weights_[k32][m], slot + at.fragment + (k32 * G::kRowBlocks + m) * 512);
    if constexpr (kSparse) places_[m] = load_shared_word(slot + kValueBytes + at.fragment / 4 + m * 128);
    if constexpr (kMiddle && !kPairs) load_middle<0>(m, slot, at);
  }
  // Loads the middle windows of row block m.  Odd: 1 for the second slab of a pair.
  template <int Odd>
  PATCH_DEVICE void load_middle(int m, const uint8_t* slot, const Place<G>& at) {
    uint32_t own[2];
    load_shared_two(own, slot + kMiddleBegin + at.fragment / 2 + m * 256);
    middle_[m][2 * Odd] = own[0], middle_[m][2 * Odd + 1] = own[1];
    const int row_block = at.feature_warp * G::kWarpRows + m;
    const uint32_t word =
        load_shared_word(slot + kMiddlePlaces + row_block * 64 + at.group * 8 + at.quad % 2 * 4);
    if (!Odd || at.quad > 1) middle_places_[m] = word;
  }
  // Makes the last slab of an odd number a pair with one of zeros.
  PATCH_DEVICE void end_pair() {
    PATCH_UNROLL
    for (int m = 0; m < G::kWarpRows; ++m) middle_[m][2] = middle_[m][3] = 0;
  }

  // Products of row block m with 8 tokens: a dense slab's of 32 columns each; a sparse slab's of all columns,
  // then its middle windows.
  static constexpr int kSteps = !kSparse || (kMiddle && !kPairs) ? 2 : 1;
  // Adds one of them to c.
  template <int Step>
  PATCH_DEVICE void multiply(int32_t (&c)[4], int m, const uint32_t (&b)[4]) const {
    if constexpr (!kSparse) {
      multiply_bytes(c, weights_[Step][m], b[2 * Step], b[2 * Step + 1]);
    } else if constexpr (Step == 0) {
      multiply_bytes_sparse(c, weights_[0][m], b, places_[m]);
    } else {
      const uint32_t a[2] = {middle_[m][0], middle_[m][1]};
      multiply_bytes_sparse(c, a, middle_of(b, 0), middle_of(b, 1), middle_places_[m]);
    }
  }
  // Adds the product of a pair's middle windows.
  PATCH_DEVICE void multiply_pair(int32_t (&c)[4], int m, const uint32_t (&b)[4]) const {
    multiply_bytes_sparse(c, middle_[m], b, middle_places_[m]);
  }
  // X's operand for half h of the middle windows of a slab: columns 2 .. 5 of 8 neighbours.
  PATCH_DEVICE static uint32_t middle_of(const uint32_t (&b)[4], int h) {
    return select_bytes(b[2 * h], b[2 * h + 1], 0x5432);
  }

 private:
  static constexpr int kFragments = kSparse ? 1 : 2;
  // Where the middle windows and their metadata begin, behind a 2:4 slab's.
  static constexpr int kMiddleBegin = G::kPanelRows * value_bytes(1, G::kWeights);
  static constexpr int kMiddlePlaces = kValueBytes + G::kPanelRows * extra_bytes(1, G::kWeights);

  uint32_t weights_[kFragments][G::kWarpRows][4];
  uint32_t places_[kSparse ? G::kWarpRows : 1];
  uint32_t middle_[kMiddle ? G::kWarpRows : 1][4];
  uint32_t middle_places_[kMiddle ? G::kWarpRows : 1];
};

}  // namespace patch
