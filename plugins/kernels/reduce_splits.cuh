// Adds the fp32 partial results of a split K in the order of the splits, so that results repeat bit for bit:
//
//   partials [splits][tokens][width]   width = panels * panel_rows >= out_features, a multiple of 4
//
// One thread makes 4 neighbouring features of one token.
#pragma once
#include "kernels/arguments.h"
#include "kernels/ptx.cuh"

namespace patch {

inline constexpr int kReduceThreads = 128;

template <class T>
PATCH_KERNEL(kReduceThreads)
reduce_splits(const LinearArguments a, const int width) {
  const int64_t groups = width / 4;
  const int64_t group = block_index() * kReduceThreads + thread_index();
  const int64_t token = group / groups;
  const int64_t feature = group % groups * 4;
  if (token >= a.tokens || feature >= a.out_features) return;

  float sum[4] = {0.f, 0.f, 0.f, 0.f};
  const float* from = a.partials + token * width + feature;
  for (int split = 0; split < a.splits; ++split, from += static_cast<int64_t>(a.tokens) * width) {
    float part[4];
    load_partials(part, from);
    PATCH_UNROLL
    for (int j = 0; j < 4; ++j) sum[j] += part[j];
  }
  if (a.bias) {
    PATCH_UNROLL
    for (int j = 0; j < 4; ++j)
      if (feature + j < a.out_features) sum[j] += T::widen(load_bias(a.bias + feature + j));
  }
  const uint32_t packed[2] = {T::narrow(sum[0], sum[1]), T::narrow(sum[2], sum[3])};
  uint16_t* to = a.y + token * a.out_features + feature;
  if (a.y_vector >= 4) return store_registers<8>(to, packed);
  PATCH_UNROLL
  for (int j = 0; j < 4; ++j) {
    const uint32_t value[2] = {packed[j / 2] >> (16 * (j & 1)), 0};
    if (feature + j < a.out_features) store_registers<2>(to + j, value);
  }
}

}  // namespace patch
