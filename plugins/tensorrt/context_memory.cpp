#include "tensorrt/context_memory.h"

#include <utility>

#include "kernels/schedule.h"
#include "tensorrt/relaxed_capture.h"

namespace patch {
namespace {

// A stream of its own: work on the default stream would break captures on streams that wait for it.
class OwnStream {
 public:
  OwnStream() noexcept : error_(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)) {}
  ~OwnStream() {
    if (error_ == cudaSuccess) cudaStreamDestroy(stream_);
  }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  OwnStream(OwnStream&&) = delete;
  OwnStream& operator=(OwnStream&&) = delete;

  cudaError_t error() const { return error_; }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
  cudaError_t error_;
};

}  // namespace

void FreeOnDevice::operator()(int32_t* memory) const noexcept {
  const RelaxedCapture relaxed;
  cudaFree(memory);
}

const int32_t* ContextMemory::index() const { return memory_.get() + kCounterBytes / sizeof(int32_t); }

cudaError_t ContextMemory::make(const std::vector<int32_t>& index) noexcept {
  const RelaxedCapture relaxed;
  const size_t bytes = index.size() * sizeof(int32_t);
  void* memory = nullptr;
  if (const cudaError_t e = cudaMalloc(&memory, kCounterBytes + bytes); e != cudaSuccess) return e;
  ContextMemory made;
  made.memory_.reset(static_cast<int32_t*>(memory));
  const OwnStream stream;
  if (stream.error() != cudaSuccess) return stream.error();
  if (const cudaError_t e = cudaMemsetAsync(memory, 0, kCounterBytes, stream.get()); e != cudaSuccess)
    return e;
  if (const cudaError_t e = cudaMemcpyAsync(made.memory_.get() + kCounterBytes / sizeof(int32_t),
                                            index.data(), bytes, cudaMemcpyHostToDevice, stream.get());
      e != cudaSuccess)
    return e;
  if (const cudaError_t e = cudaStreamSynchronize(stream.get()); e != cudaSuccess) return e;
  *this = std::move(made);
  return cudaSuccess;
}

}  // namespace patch
