#include "kernels/activate_kernel.cuh"
#include "kernels/launch.h"
#include "kernels/unpack_bytes_kernel.cuh"
#include "kernels/unpack_integers_kernel.cuh"

namespace patch {
namespace {

template <class T>
auto unpack_integers_kernel(Weights weights) {
  return weights == Weights::kInt8 ? &patch_unpack_integers<T, Weights::kInt8>
                                   : &patch_unpack_integers<T, Weights::kInt4>;
}
auto unpack_kernel(const UnpackArguments& a) {
  if (!is_quantised(a.weights)) return a.panel_rows == 64 ? &patch_unpack<64> : &patch_unpack<128>;
  if (a.weights == Weights::kW8A8)
    return a.panel_rows == 64 ? &patch_unpack_bytes<64> : &patch_unpack_bytes<128>;
  return a.scalar == Scalar::kHalf ? unpack_integers_kernel<Half>(a.weights)
                                   : unpack_integers_kernel<BFloat16>(a.weights);
}

}  // namespace

cudaError_t launch_unpack(const UnpackArguments& a, cudaStream_t stream) noexcept {
  return start(unpack_kernel(a), a, a.blocks(), kUnpackThreads, kUnpackShared, stream);
}

cudaError_t launch_activate(const ActivateArguments& a, Scalar scalar, cudaStream_t stream) noexcept {
  const auto kernel = scalar == Scalar::kHalf ? &patch_activate<Half> : &patch_activate<BFloat16>;
  return start(kernel, a, a.blocks(), kActivateThreads, 0, stream);
}

}  // namespace patch
