// How the products of a slab are divided, for operands of mma and of mma.sp.
#pragma once
#include <type_traits>

#include "kernels/place.cuh"

namespace patch {

// A unit is one ldmatrix.x4 of X and its products with all rows of the warp: 16 columns of 16 tokens for mma,
// or 32 columns of 8 tokens for mma.sp.
template <class G, bool Sparse>
struct SixteenBitUnits {
  static constexpr int kCount = 2 * G::kWarpTokens;
  static constexpr int kPerStep = Sparse ? G::kWarpTokens : G::kWarpTokens / 2;
  // Units that operands are loaded ahead, the same for all kinds of slabs, and steps whose A fragments a
  // decoder holds.
  static constexpr int kAhead = G::kWarpTokens > 4 ? 3 : 2;
  static constexpr int kBuffers = kPerStep > 1 ? 2 : 4;
  static constexpr int kStepsAhead =
      (kAhead + kPerStep - 1) / kPerStep;    // steps that are loaded before a slab begins
  static constexpr int kSlots = 4;           // for X's operands; more than kAhead
  static constexpr int kFills = kCount / 2;  // units after a turn between which the copies are spread
  static_assert(kAhead < kSlots && kCount % kSlots == 0 && kCount >= kSlots &&
                kAhead <= kPerStep * (kBuffers - 1));
  static_assert(G::kWarpTokens % 2 == 0);

  // Offset in a slot of the row that this lane gives ldmatrix in unit 0.
  PATCH_DEVICE static int place(const Place<G>& at) {
    const int matrix = at.lane >> 3, chunk = Sparse ? matrix : matrix & 1;
    const int row = at.token_warp * G::kWarpTokens * 8 + (Sparse ? 0 : matrix >> 1) * 8 + (at.lane & 7);
    return G::kSlabBytes + row * 128 + ((chunk ^ (at.lane & 7)) << 4);
  }
  // A step is 2 or 4 chunks of 16 bytes further, which flips bits of the swizzled chunk.
  template <int Unit>
  PATCH_DEVICE static void load(uint32_t (&b)[4], const uint8_t* slot, int place) {
    constexpr int step = Unit / kPerStep, tokens = Unit % kPerStep * (Sparse ? 8 : 16);
    load_matrices<tokens * 128>(b, slot + (place ^ (step * (Sparse ? 64 : 32))));
  }
};

// Of int8, a unit is all 64 columns of 8 tokens: lane 4g + t has the bytes 16 t .. 16 t + 15 of token g,
// which lie one after the other in a slot, lane by lane.
template <class G>
struct ByteUnits {
  static constexpr int kCount = G::kWarpTokens;
  static constexpr int kAhead = kCount > 4 ? 3 : kCount / 2;
  static constexpr int kSlots = kCount < 4 ? kCount : 4;
  // A slab takes little longer than a copy, so copies can't wait (simulated: issue.py).
  static constexpr int kFills = kAhead;
  static_assert(kAhead > 0 && kAhead < kSlots && kCount % kSlots == 0);

  PATCH_DEVICE static int place(const Place<G>& at) {
    return G::kSlabBytes + at.token_warp * G::kWarpTokens * 8 * kSlabColumns + at.lane * 16;
  }
  template <int Unit>
  PATCH_DEVICE static void load(uint32_t (&b)[4], const uint8_t* slot, int place) {
    load_shared(b, slot + place + Unit * 8 * kSlabColumns);
  }
};

template <class G, bool Sparse>
using Units = std::conditional_t<G::kWeights == Weights::kW8A8, ByteUnits<G>, SixteenBitUnits<G, Sparse>>;

}  // namespace patch
