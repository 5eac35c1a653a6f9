#include "kernels/launch_kernels.cuh"

namespace patch {

cudaError_t launch_bfloat16(const LinearArguments& a, int config, cudaStream_t stream) noexcept {
  return launch_scalar<BFloat16>(a, config, stream);
}

}  // namespace patch
