#include "kernels/launch_kernels.cuh"

namespace patch {

cudaError_t launch_all_half(const StreamArguments& s, int config, cudaStream_t stream) noexcept {
  return launch_scalar<Half, kPatchConfigCount, kFirstInt8>(s, config, stream);
}

}  // namespace patch
