// Epilogue of a tile, in fp32, before it is rounded: bias, activation, gate and residual.
//
//   Y = activation(X W^T + bias) + residual,  or, if gated,  activation(gate) * up + residual
//
// Sums of int8 are those of X q^T until they are multiplied by the scales of their rows.  Those of w8a8 are
// of integers, and are multiplied by the scale of the row of W, then by that of the token.
//
// Gated weights have 8 rows of the gate and 8 of the up in each 16 rows.  So the first two of the four sums
// that a thread has of 8 tokens are the gate's, the other two the up's of the same feature and tokens, and
// gating needs no exchange between threads.
#pragma once
#include "kernels/any_scalar.cuh"
#include "kernels/slabs.cuh"

namespace patch {

PATCH_DEVICE float sigmoid(float x) { return reciprocal(1.f + exp2_approximate(-1.4426950409f * x)); }

// The normal distribution function, by erfc of Abramowitz & Stegun 7.1.26.  Its error is at most 1.5e-7,
// about the rounding error of 1 + erf in fp32.
PATCH_DEVICE float normal_cdf(float x) {
  const float z = 0.70710678119f * (x < 0.f ? -x : x);
  const float t = reciprocal(1.f + 0.3275911f * z);
  const float series =
      t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  const float tail = 0.5f * series * exp2_approximate(-1.4426950409f * z * z);
  return x < 0.f ? tail : 1.f - tail;
}

PATCH_DEVICE float gelu(float x) { return x * normal_cdf(x); }
// 0.5 (1 + tanh(u)) = sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
PATCH_DEVICE float gelu_tanh(float x) { return x * sigmoid(1.5957691216f * (x + 0.044715f * x * x * x)); }
PATCH_DEVICE float silu(float x) { return x * sigmoid(x); }

// Sums of both halves of a row block, or of the gate's half.
template <class G, class Function>
PATCH_DEVICE void for_each_value(RowBlock<G, float>& values, const Function& change, int halves = 2) {
  PATCH_UNROLL
  for (int half = 0; half < 2; ++half) {
    if (half == halves) return;
    PATCH_UNROLL
    for (int n = 0; n < G::kWarpTokens; ++n) {
      PATCH_UNROLL
      for (int i = 0; i < 2; ++i) change(values[n][2 * half + i], n, 2 * half + i);
    }
  }
}

template <class G>
PATCH_DEVICE void activate(RowBlock<G, float>& values, Activation activation, int halves) {
  switch (activation) {
    case Activation::kNone:
      return;
    case Activation::kGelu:
      return for_each_value<G>(values, [](float& v, int, int) { v = gelu(v); }, halves);
    case Activation::kGeluTanh:
      return for_each_value<G>(values, [](float& v, int, int) { v = gelu_tanh(v); }, halves);
    case Activation::kSilu:
      return for_each_value<G>(values, [](float& v, int, int) { v = silu(v); }, halves);
  }
}

// Halves of a row block that are features of Y.
PATCH_DEVICE int halves_of_y(const LinearArguments& a) { return 2 - a.gated; }
// Returns the first of the 8 features of Y that half of a warp's row block m belongs to.
template <class G>
PATCH_DEVICE int64_t first_feature(const LinearArguments& a, int panel, int m, int half, const Place<G>& at) {
  return a.gated ? first_row<G>(panel, m, 0, at) / 2 : first_row<G>(panel, m, half, at);
}

// m: number of the row block among the warp's.
template <class T, class G>
PATCH_DEVICE void add_bias(RowBlock<G, float>& values, const LinearArguments& a, const T& type, int panel,
                           int m, const Place<G>& at) {
  float of_row[2];
  PATCH_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int64_t feature = first_feature<G>(a, panel, m, half, at) + at.group;
    const uint16_t* bias = a.bias + static_cast<int64_t>(half * a.gated) * a.out_features;
    of_row[half] = feature < a.out_features ? type.widen(load_bias(bias + feature)) : 0.f;
  }
  for_each_value<G>(values, [&](float& v, int, int j) { v += of_row[j / 2]; });
}

// Scales of a thread's two tokens of each 8; of w8a8 only.
template <class G>
using TokenScales = float[G::kWarpTokens][2];

template <class G>
PATCH_DEVICE void load_token_scales(TokenScales<G>& scales, const LinearArguments& a, int first_token,
                                    const Place<G>& at) {
  PATCH_UNROLL
  for (int n = 0; n < G::kWarpTokens; ++n) {
    PATCH_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int token = first_token + (at.token_warp * G::kWarpTokens + n) * 8 + at.quad * 2 + i;
      scales[n][i] = token < a.tokens ? load_written(a.token_scales + token) : 0.f;
    }
  }
}

// Multiplies the sums of a row block by the scales of the rows of W, and of integers by those of the tokens
// then, each time rounded.
template <class G>
PATCH_DEVICE void scale_sums(RowBlock<G, float>& values, const RowBlock<G>& sums, const LinearArguments& a,
                             int panel, int m, const TokenScales<G>& of_token, const Place<G>& at) {
  float of_row[2];
  PATCH_UNROLL
  for (int half = 0; half < 2; ++half)
    of_row[half] = load_scale(a.scales + first_row<G>(panel, m, half, at) + at.group);
  for_each_value<G>(values, [&](float& v, int n, int j) {
    if constexpr (G::kWeights == Weights::kW8A8)
      v = multiply_alone(multiply_alone(static_cast<float>(sums[n][j]), of_row[j / 2]), of_token[n][j % 2]);
    else
      v = sums[n][j] * of_row[j / 2];
  });
}

// The residual is read as pairs of features of one token.  movmatrix transposes an 8x8 block into the order
// of the accumulators, pairs of tokens of one feature.
template <class T, class G>
PATCH_DEVICE void add_residual(RowBlock<G, float>& values, const LinearArguments& a, const T& type, int panel,
                               int m, int first_token, const Place<G>& at) {
  PATCH_UNROLL
  for (int half = 0; half < 2; ++half) {
    if (half == halves_of_y(a)) return;
    const int64_t feature = first_feature<G>(a, panel, m, half, at) + at.quad * 2;
    PATCH_UNROLL
    for (int n = 0; n < G::kWarpTokens; ++n) {
      const int token = first_token + (at.token_warp * G::kWarpTokens + n) * 8 + at.group;
      uint32_t pair = 0;
      if (token < a.tokens && feature < a.out_features) {
        const uint16_t* from = a.residual + static_cast<int64_t>(token) * a.out_features + feature;
        if (a.y_vector >= 2)  // out_features is even: the pair lies inside the row
          pair = load_pair(from);
        else
          pair = load_written(from) |
                 (feature + 1 < a.out_features ? static_cast<uint32_t>(load_written(from + 1)) << 16 : 0u);
      }
      pair = transpose_matrix(pair);
      values[n][2 * half] += type.widen(static_cast<uint16_t>(pair));
      values[n][2 * half + 1] += type.widen(static_cast<uint16_t>(pair >> 16));
    }
  }
}

// Turns the sums of a tile into its values of Y, rounds them, and calls store(feature within the panel, token
// within the tile, pair) for pairs of features.  movmatrix transposes each 8x8 block, so that each lane holds
// two features of one token.
//
// Each turn of the loop takes one row block, and moves the sums of the next ones to the registers of those
// before them: unrolled, this code would be most of a kernel's.
template <class T, class G, class Store>
PATCH_DEVICE void finish(Sums<G>& sums, const LinearArguments& a, int panel, int first_token,
                         const Place<G>& at, const Store& store) {
  const T type = scalar_of<T>(a.scalar);
  constexpr bool kScales = G::kWeights == Weights::kInt8 || G::kWeights == Weights::kW8A8;
  TokenScales<G> of_token;
  if constexpr (G::kWeights == Weights::kW8A8) load_token_scales<G>(of_token, a, first_token, at);
  PATCH_NO_UNROLL
  for (int m = 0; m < G::kWarpRows; ++m) {
    RowBlock<G, float> values;
    if constexpr (kScales)
      scale_sums<G>(values, sums[0], a, panel, m, of_token, at);
    else
      for_each_value<G>(values, [&](float& v, int n, int j) { v = sums[0][n][j]; });
    PATCH_UNROLL
    for (int next = 1; next < G::kWarpRows; ++next) {
      PATCH_UNROLL
      for (int i = 0; i < 4 * G::kWarpTokens; ++i) sums[next - 1][i / 4][i % 4] = sums[next][i / 4][i % 4];
    }
    if (a.bias) add_bias<T, G>(values, a, type, panel, m, at);
    activate<G>(values, a.activation, halves_of_y(a));
    if (a.gated) for_each_value<G>(values, [&](float& v, int n, int j) { v *= values[n][2 + j]; }, 1);
    if (a.residual) add_residual<T, G>(values, a, type, panel, m, first_token, at);
    const int row_block = at.feature_warp * G::kWarpRows + m;
    PATCH_UNROLL
    for (int half = 0; half < 2; ++half) {
      if (half == halves_of_y(a)) break;
      const int feature = (row_block * halves_of_y(a) + half) * 8 + at.quad * 2;
      PATCH_UNROLL
      for (int n = 0; n < G::kWarpTokens; ++n) {
        const uint32_t pair = type.narrow(values[n][2 * half], values[n][2 * half + 1]);
        const int token = (at.token_warp * G::kWarpTokens + n) * 8 + at.group;
        store(feature, token, transpose_matrix(pair));
      }
    }
  }
}

}  // namespace patch
