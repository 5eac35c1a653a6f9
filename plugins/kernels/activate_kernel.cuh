// Epilogue of a dense product: bias, activation, gate and residual.  A thread computes 8 features of a token.
#pragma once
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
template <class T, bool Gated>
PATCH_KERNEL(kActivateThreads)
patch_activate(const ActivateArguments a) {
  wait_for_earlier_launches();
  const int blocks = a.blocks_per_token();
  const int64_t token = block_index() / blocks;
  const int column = (static_cast<int>(block_index() % blocks) * kActivateThreads + thread_index()) * 8;
  if (column >= a.columns) return;
  const uint16_t* z = a.z + token * a.stride * (Gated ? 2 : 1) + column;
  float v[8] = {};
  add_eight<T>(v, z);
  if (a.bias) add_eight<T>(v, a.bias + column);
  activate_eight(v, a.activation);
  if constexpr (Gated) {
    float up[8] = {};
    add_eight<T>(up, z + a.stride);
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
