#include "kernels/launch_kernels.cuh"

namespace patch {

cudaError_t launch_bfloat16(const StreamArguments& s, int config, cudaStream_t stream) noexcept {
  return launch_scalar<BFloat16, 0, kPatchConfigCount>(s, config, stream);
}

}  // namespace patch
