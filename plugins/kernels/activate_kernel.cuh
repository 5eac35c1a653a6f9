// Epilogue of a dense product: bias, activation, gate and residual.  A thread computes 8 features of a token.
#pragma once
#include <cstring>

#include "kernels/dense_path.h"
#include "kernels/epilogue.cuh"

namespace patch {

template <class T>
PATCH_DEVICE void add_eight(float (&v)[8], const uint16_t* p) {
  uint32_t pairs[4];
  load_eight(pairs, p);
  PATCH_UNROLL
  for (int i = 0; i < 8; ++i) v[i] += T::widen(static_cast<uint16_t>(pairs[i / 2] >> 16 * (i % 2)));
}

PATCH_DEVICE float float_of(uint32_t bits) {
  float f = 0.f;
  memcpy(&f, &bits, sizeof(f));
  return f;
}

// v = sums times the scales of their rows, then times the token's, each time rounded.
PATCH_DEVICE void scale_eight(float (&v)[8], const int32_t* sums, const float* scales, float of_token) {
  PATCH_UNROLL
  for (int half = 0; half < 2; ++half) {
    uint32_t sum[4], scale[4];
    load_eight(sum, reinterpret_cast<const uint16_t*>(sums + 4 * half));
    load_eight(scale, reinterpret_cast<const uint16_t*>(scales + 4 * half));
    PATCH_UNROLL
    for (int i = 0; i < 4; ++i)
      v[4 * half + i] = multiply_alone(
          multiply_alone(static_cast<float>(static_cast<int32_t>(sum[i])), float_of(scale[i])), of_token);
  }
}

template <class Function>
PATCH_DEVICE void for_eight(float (&v)[8], const Function& function) {
  PATCH_UNROLL
  for (int i = 0; i < 8; ++i) v[i] = function(v[i]);
}

PATCH_DEVICE void activate_eight(float (&v)[8], Activation activation) {
  switch (activation) {
    case Activation::kNone:
      return;
    case Activation::kGelu:
      return for_eight(v, [](float x) { return gelu(x); });
    case Activation::kGeluTanh:
      return for_eight(v, [](float x) { return gelu_tanh(x); });
    case Activation::kSilu:
      return for_eight(v, [](float x) { return silu(x); });
  }
}

// Grid: x = a.blocks().
template <class T>
PATCH_KERNEL(kActivateThreads)
patch_activate(const ActivateArguments a) {
  wait_for_earlier_launches();
  const int blocks = a.blocks_per_token();
  const int64_t token = block_index() / blocks;
  const int column = (static_cast<int>(block_index() % blocks) * kActivateThreads + thread_index()) * 8;
  if (column >= a.columns) return;
  const float of_token = a.scales ? load_written(a.token_scales + token) : 0.f;
  // side: 1 for the up.
  const auto load_side = [&](float (&v)[8], int side) {
    const int row = (column << a.gated) + 8 * side;
    const int64_t at = token * a.stride + row;
    if (a.scales)
      scale_eight(v, static_cast<const int32_t*>(a.z) + at, a.scales + row, of_token);
    else
      add_eight<T>(v, static_cast<const uint16_t*>(a.z) + at);
  };
  float v[8] = {};
  load_side(v, 0);
  if (a.bias) add_eight<T>(v, a.bias + column);
  activate_eight(v, a.activation);
  if (a.gated) {
    float up[8] = {};
    load_side(up, 1);
    if (a.bias) add_eight<T>(up, a.bias + a.out_features + column);
    PATCH_UNROLL
    for (int i = 0; i < 8; ++i) v[i] *= up[i];
  }
  const int64_t at = token * a.out_features + column;
  if (a.residual) add_eight<T>(v, a.residual + at);
  uint32_t pairs[4];
  PATCH_UNROLL
  for (int i = 0; i < 4; ++i) pairs[i] = T::narrow(v[2 * i], v[2 * i + 1]);
  store_eight(a.y + at, pairs);
}

}  // namespace patch
