// Epilogue of a tile, in fp32, before it is rounded: bias, activation, gate and residual.
//
//   Y = activation(X W^T + bias) + residual,  or, if gated,  activation(gate) * up + residual
//
// Sums of int8 are those of X q^T until they are multiplied by the scales of their rows.  Those of w8a8 are
// of integers, and are multiplied by the scale of the row of W, then by that of the token.
//
// Gate and up have separate panels, so that each has its own tile map: a slab with rows of both could be 2:4
// only if both are.  Row i of the gate and row i of the up are at the same place in the two sets of
// accumulators, so gating needs no exchange between threads.
#pragma once
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

template <class G, class Function>
PATCH_DEVICE void for_each_sum(Accumulators<G, float>& acc, const Function& change) {
  PATCH_UNROLL
  for (int m = 0; m < G::kWarpRows; ++m) {
    PATCH_UNROLL
    for (int n = 0; n < G::kWarpTokens; ++n) {
      PATCH_UNROLL
      for (int j = 0; j < 4; ++j) change(acc[m][n][j], m, n, j);
    }
  }
}

template <class G>
PATCH_DEVICE void activate(Accumulators<G, float>& acc, Activation activation) {
  switch (activation) {
    case Activation::kNone:
      return;
    case Activation::kGelu:
      return for_each_sum<G>(acc, [](float& v, int, int, int) { v = gelu(v); });
    case Activation::kGeluTanh:
      return for_each_sum<G>(acc, [](float& v, int, int, int) { v = gelu_tanh(v); });
    case Activation::kSilu:
      return for_each_sum<G>(acc, [](float& v, int, int, int) { v = silu(v); });
  }
}

// bias: [out_features], of the panels (plain, gate or up) that `acc` belongs to.
template <class T, class G>
PATCH_DEVICE void add_bias(Accumulators<G, float>& acc, const LinearArguments& a, const uint16_t* bias,
                           int panel, const Place<G>& at) {
  PATCH_UNROLL
  for (int m = 0; m < G::kWarpRows; ++m) {
    PATCH_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first_row<G>(panel, m, half, at) + at.group;
      const float value = row < a.out_features ? T::widen(load_bias(bias + row)) : 0.f;
      PATCH_UNROLL
      for (int n = 0; n < G::kWarpTokens; ++n) {
        acc[m][n][2 * half] += value;
        acc[m][n][2 * half + 1] += value;
      }
    }
  }
}

// scales: of the rows of W, [packed panels * panel_rows].  packed: number of the packed panel.
template <class G>
PATCH_DEVICE void scale_sums(Accumulators<G, float>& acc, const float* scales, int packed,
                             const Place<G>& at) {
  PATCH_UNROLL
  for (int m = 0; m < G::kWarpRows; ++m) {
    PATCH_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float scale = load_scale(scales + first_row<G>(packed, m, half, at) + at.group);
      PATCH_UNROLL
      for (int n = 0; n < G::kWarpTokens; ++n) {
        acc[m][n][2 * half] *= scale;
        acc[m][n][2 * half + 1] *= scale;
      }
    }
  }
}

// Multiplies sums of integers by the scale of the row of W, then by that of the token, each time rounded.
template <class G>
PATCH_DEVICE void scale_integers(Accumulators<G, float>& acc, const Accumulators<G, int32_t>& sums,
                                 const LinearArguments& a, int packed, int first_token, const Place<G>& at) {
  PATCH_UNROLL
  for (int n = 0; n < G::kWarpTokens; ++n) {
    float of_token[2];
    PATCH_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int token = first_token + (at.token_warp * G::kWarpTokens + n) * 8 + at.quad * 2 + i;
      of_token[i] = token < a.tokens ? load_scale(a.token_scales + token) : 0.f;
    }
    PATCH_UNROLL
    for (int m = 0; m < G::kWarpRows; ++m) {
      PATCH_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float of_row = load_scale(a.scales + first_row<G>(packed, m, half, at) + at.group);
        PATCH_UNROLL
        for (int i = 0; i < 2; ++i) {
          const int j = 2 * half + i;
          acc[m][n][j] =
              multiply_alone(multiply_alone(static_cast<float>(sums[m][n][j]), of_row), of_token[i]);
        }
      }
    }
  }
}

// The residual is read as pairs of features of one token.  movmatrix transposes an 8x8 block into the order
// of the accumulators, pairs of tokens of one feature.
template <class T, class G>
PATCH_DEVICE void add_residual(Accumulators<G, float>& acc, const LinearArguments& a, int panel,
                               int first_token, const Place<G>& at) {
  PATCH_UNROLL
  for (int m = 0; m < G::kWarpRows; ++m) {
    PATCH_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int64_t feature = first_row<G>(panel, m, half, at) + at.quad * 2;
      PATCH_UNROLL
      for (int n = 0; n < G::kWarpTokens; ++n) {
        const int token = first_token + (at.token_warp * G::kWarpTokens + n) * 8 + at.group;
        uint32_t pair = 0;
        if (token < a.tokens && feature < a.out_features) {
          const uint16_t* from = a.residual + static_cast<int64_t>(token) * a.out_features + feature;
          if (a.y_vector >= 2)  // out_features is even: the pair lies inside the row
            pair = load_pair(from);
          else
            pair = load_value(from) |
                   (feature + 1 < a.out_features ? static_cast<uint32_t>(load_value(from + 1)) << 16 : 0u);
        }
        pair = transpose_matrix(pair);
        acc[m][n][2 * half] += T::widen(static_cast<uint16_t>(pair));
        acc[m][n][2 * half + 1] += T::widen(static_cast<uint16_t>(pair >> 16));
      }
    }
  }
}

// Turns the products of a tile into its values of Y, in the first set.
template <class T, class G>
PATCH_DEVICE void finish_products(Sums<G, float>& sums, const LinearArguments& a, int panel, int first_token,
                                  const Place<G>& at) {
  if (a.bias) {
    PATCH_UNROLL
    for (int f = 0; f < G::kPanels; ++f)
      add_bias<T, G>(sums[f], a, a.bias + static_cast<int64_t>(f) * a.out_features, panel, at);
  }
  activate<G>(sums[0], a.activation);
  if constexpr (G::kGated)
    for_each_sum<G>(sums[0], [&](float& v, int m, int n, int j) { v *= sums[1][m][n][j]; });
  if (a.residual) add_residual<T, G>(sums[0], a, panel, first_token, at);
}

// Turns the sums of a tile into its values of Y, and calls `write` with them.
template <class T, class G, class Write>
PATCH_DEVICE void finish(Sums<G>& sums, const LinearArguments& a, int panel, int first_token,
                         const Place<G>& at, const Write& write) {
  if constexpr (G::kWeights == Weights::kW8A8) {
    Sums<G, float> products;
    PATCH_UNROLL
    for (int f = 0; f < G::kPanels; ++f)
      scale_integers<G>(products[f], sums[f], a, panel * G::kPanels + f, first_token, at);
    finish_products<T, G>(products, a, panel, first_token, at);
    write(products[0]);
  } else {
    if constexpr (G::kWeights == Weights::kInt8) {
      PATCH_UNROLL
      for (int f = 0; f < G::kPanels; ++f) scale_sums<G>(sums[f], a.scales, panel * G::kPanels + f, at);
    }
    finish_products<T, G>(sums, a, panel, first_token, at);
    write(sums[0]);
  }
}

}  // namespace patch
