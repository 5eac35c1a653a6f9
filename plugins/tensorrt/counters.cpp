#include "tensorrt/counters.h"

#include <utility>

#include "kernels/schedule.h"

namespace patch {

cudaError_t make_counters(Counters* counters) noexcept {
  void* memory = nullptr;
  if (const cudaError_t e = cudaMalloc(&memory, kCounterBytes); e != cudaSuccess) return e;
  Counters made(static_cast<int32_t*>(memory));
  if (const cudaError_t e = cudaMemset(memory, 0, kCounterBytes); e != cudaSuccess) return e;
  // A context's stream may be non-blocking, that is, not ordered after the default stream.
  if (const cudaError_t e = cudaStreamSynchronize(nullptr); e != cudaSuccess) return e;
  *counters = std::move(made);
  return cudaSuccess;
}

}  // namespace patch
