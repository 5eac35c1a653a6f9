#include "kernels/launch_kernels.cuh"

namespace patch {

cudaError_t launch_int8_half(const StreamArguments& s, int config, cudaStream_t stream) noexcept {
  return launch_scalar<Half, kFirstInt8, kFirstInt4>(s, config, stream);
}

}  // namespace patch
