// The kernel for Hopper, which only code for sm_90a can hold: its build passes PATCH_SM90A.  Any other build
// of this file has no kernel.
#include <array>
#include <utility>

#include "kernels/launch.h"
#include "kernels/warpgroup.h"
#ifdef PATCH_SM90A
#include "kernels/warpgroup_kernel.cuh"
#endif

namespace patch {
#ifdef PATCH_SM90A
namespace {

template <class T, int C>
cudaError_t launch_warpgroup_config(const LinearArguments& a, cudaStream_t stream) {
  using G = WarpgroupGeometry<C>;
  const int64_t blocks = a.panels * ceil_div(a.tokens, G::kTokens * G::kCluster) * G::kCluster;
  if (a.parts != 1) return cudaErrorInvalidConfiguration;
  return start(&patch_warpgroups<T, C>, a, blocks, G::kBlockThreads, G::kSharedBytes, stream);
}

template <int... C>
cudaError_t launch_warpgroups_by_number(const LinearArguments& a, Scalar scalar, int config,
                                        cudaStream_t stream, std::integer_sequence<int, C...>) {
  using Launcher = cudaError_t (*)(const LinearArguments&, cudaStream_t);
  static constexpr std::array<Launcher, sizeof...(C)> kHalf{launch_warpgroup_config<Half, C>...},
      kBFloat16{launch_warpgroup_config<BFloat16, C>...};
  if (config < 0 || config >= kWarpgroupConfigCount) return cudaErrorInvalidConfiguration;
  return (scalar == Scalar::kHalf ? kHalf : kBFloat16)[config](a, stream);
}

}  // namespace

bool has_warpgroup_kernels() noexcept { return true; }

cudaError_t launch_warpgroups(const LinearArguments& a, Scalar scalar, int config,
                              cudaStream_t stream) noexcept {
  return launch_warpgroups_by_number(a, scalar, config, stream,
                                     std::make_integer_sequence<int, kWarpgroupConfigCount>());
}

#else

bool has_warpgroup_kernels() noexcept { return false; }

cudaError_t launch_warpgroups(const LinearArguments&, Scalar, int, cudaStream_t) noexcept {
  return cudaErrorNoKernelImageForDevice;
}

#endif
}  // namespace patch
