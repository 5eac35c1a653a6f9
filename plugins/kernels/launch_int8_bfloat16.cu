#include "kernels/launch_kernels.cuh"

namespace patch {

cudaError_t launch_int8_bfloat16(const StreamArguments& s, int config, cudaStream_t stream) noexcept {
  return launch_scalar<BFloat16, kFirstInt8, kFirstInt4>(s, config, stream);
}

}  // namespace patch
