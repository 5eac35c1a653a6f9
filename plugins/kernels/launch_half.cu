#include "kernels/launch_kernels.cuh"

namespace patch {

cudaError_t launch_half(const LinearArguments& a, int config, cudaStream_t stream) noexcept {
  return launch_scalar<Half>(a, config, stream);
}

}  // namespace patch
