// What each thread of a block holds of a tile of Y.
#pragma once
#include <type_traits>
#include <utility>

#include "kernels/config.h"
#include "kernels/ptx.cuh"

namespace patch {

// Warp and lane of this thread.
template <class G>
struct Place {
  int thread = thread_index();
  int lane = thread & 31;
  int feature_warp = (thread >> 5) % G::kFeatureWarps;
  int token_warp = (thread >> 5) / G::kFeatureWarps;
  int group = lane >> 2;  // PTX's groupID: the fragment row of this lane
  int quad = lane & 3;    // PTX's threadID_in_group
  // Bytes of a step's fragments before this lane's first one, if a lane has 16 bytes of each row block.
  int fragment = feature_warp * G::kWarpRows * 512 + lane * 16;
};

// A sum of products of int8 is exact.
template <class G>
using Sum = std::conditional_t<G::kWeights == Weights::kW8A8, int32_t, float>;
template <class G, class V = Sum<G>>
using RowBlock = V[G::kWarpTokens][4];
template <class G>
using Sums = RowBlock<G>[G::kWarpRows];

template <class G>
PATCH_DEVICE void clear(Sums<G>& sums) {
  PATCH_UNROLL
  for (int m = 0; m < G::kWarpRows; ++m) {
    PATCH_UNROLL
    for (int n = 0; n < G::kWarpTokens; ++n) {
      PATCH_UNROLL
      for (int j = 0; j < 4; ++j) sums[m][n][j] = 0;
    }
  }
}

// Returns the first of the 8 rows of W in the lower or upper half of a warp's fragment m.
template <class G>
PATCH_DEVICE int64_t first_row(int panel, int m, int half, const Place<G>& at) {
  return static_cast<int64_t>(panel) * G::kPanelRows + (at.feature_warp * G::kWarpRows + m) * 16 + half * 8;
}

// Calls function(Index<0>()) to function(Index<N - 1>()): a loop whose index is a constant.
template <int I>
struct Index {
  static constexpr int value = I;
};
template <int First, class Function, int... I>
PATCH_DEVICE void for_each_of(const Function& function, std::integer_sequence<int, I...>) {
  (function(Index<First + I>()), ...);
}
template <int N, int First = 0, class Function>
PATCH_DEVICE void for_each_index(const Function& function) {
  for_each_of<First>(function, std::make_integer_sequence<int, (N > First ? N - First : 0)>());
}

}  // namespace patch
