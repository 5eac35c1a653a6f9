#include "kernels/launch_kernels.cuh"
#include "kernels/quantise_kernel.cuh"

namespace patch {

// Rounds X, then launches a configuration, or kOnlyRounds.
static cudaError_t launch_rounded(const StreamArguments& s, int config, cudaStream_t stream) {
  const QuantiseArguments q(s.linear);
  if (!q.rounded || !q.scales) return cudaErrorInvalidValue;
  if (const cudaError_t e = start(&patch_quantise, q, q.blocks(), kQuantiseThreads, kQuantiseShared, stream);
      e != cudaSuccess)
    return e;
  if (config == kOnlyRounds) return cudaSuccess;
  return launch_scalar<AnyScalar, kFirstW8A8, kConfigCount>(s, config, stream);
}

[[maybe_unused]] static const bool known = add_launcher(Scalar::kHalf, Group::kW8A8, &launch_rounded) &&
                                           add_launcher(Scalar::kBFloat16, Group::kW8A8, &launch_rounded);

}  // namespace patch
