#include "kernels/launch_kernels.cuh"

namespace patch {

cudaError_t launch_int4_half(const StreamArguments& s, int config, cudaStream_t stream) noexcept {
  return launch_scalar<Half, kFirstInt4, kConfigCount>(s, config, stream);
}

}  // namespace patch
