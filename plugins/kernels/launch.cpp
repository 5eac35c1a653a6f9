#include "kernels/launch.h"

#include <array>
#include <atomic>

namespace patch {

cudaError_t sm_count(int* sms) noexcept {
  static std::array<std::atomic<int>, 64> known{};
  int device = 0;
  if (const cudaError_t e = cudaGetDevice(&device); e != cudaSuccess) return e;
  const bool cached = device < static_cast<int>(known.size());
  if (cached && (*sms = known[device].load(std::memory_order_relaxed)) > 0) return cudaSuccess;
  const cudaError_t e = cudaDeviceGetAttribute(sms, cudaDevAttrMultiProcessorCount, device);
  if (e == cudaSuccess && cached) known[device].store(*sms, std::memory_order_relaxed);
  return e;
}

cudaError_t launch(LinearArguments a, Scalar scalar, const Schedule& schedule, cudaStream_t stream) noexcept {
  if (a.tokens == 0 || a.out_features == 0) return cudaSuccess;
  a.parts = schedule.parts;
  if (!choose_vectors(&a)) return cudaErrorMisalignedAddress;
  return scalar == Scalar::kHalf ? launch_half(a, schedule.config, stream)
                                 : launch_bfloat16(a, schedule.config, stream);
}

}  // namespace patch
