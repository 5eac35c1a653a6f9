// Device memory in which the blocks of a stream count themselves (kernels/stream_kernel.cuh).  Each kernel
// resets it to 0, so it is cleared once, when a context is created, and never in enqueue.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

namespace patch {

struct FreeOnDevice {
  void operator()(int32_t* counters) const noexcept { cudaFree(counters); }
};
using Counters = std::unique_ptr<int32_t, FreeOnDevice>;

// Allocates kCounterBytes of zeros on the current device.
cudaError_t make_counters(Counters* counters) noexcept;

}  // namespace patch
