// Device memory of a context: counters, and a copy of the index.
//
// In the counters the blocks of a stream count themselves (kernels/stream_kernel.cuh).  Each kernel resets
// them to 0, so they are cleared once.  All of it is made when a context is created, and never in enqueue.
// It is made and freed while other threads may be capturing CUDA graphs.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace patch {

struct FreeOnDevice {
  void operator()(int32_t* memory) const noexcept;
};

class ContextMemory {
 public:
  // Allocates on the current device, and fills the memory before it returns.
  cudaError_t make(const std::vector<int32_t>& index) noexcept;
  bool is_made() const { return memory_ != nullptr; }
  // kCounterBytes of zeros.
  int32_t* counters() const { return memory_.get(); }
  const int32_t* index() const;

 private:
  std::unique_ptr<int32_t, FreeOnDevice> memory_;
};

}  // namespace patch
