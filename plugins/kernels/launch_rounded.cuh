// Launches configurations of w8a8: rounds X, then multiplies.
#pragma once
#include "kernels/launch_kernels.cuh"
#include "kernels/quantise_kernel.cuh"

namespace patch {

// Launches one of the configurations First .. End - 1, or kOnlyRounds.
template <class T, int First, int End>
cudaError_t launch_rounded(const StreamArguments& s, int config, cudaStream_t stream) {
  const QuantiseArguments q(s.linear);
  if (!q.rounded || !q.scales) return cudaErrorInvalidValue;
  if (const cudaError_t e =
          start(&patch_quantise<T>, q, q.blocks(), kQuantiseThreads, kQuantiseShared, stream);
      e != cudaSuccess)
    return e;
  return config == kOnlyRounds ? cudaSuccess : launch_scalar<T, First, End>(s, config, stream);
}

}  // namespace patch
