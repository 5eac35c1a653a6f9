// RAII classes for memory, streams and events of the CUDA runtime.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>

namespace patch_runner {

// Throws a RunError that names `call` unless `status` is success.
void check(cudaError_t status, const char* call);

struct DeviceFree {
  void operator()(void* memory) const noexcept;
};
struct PinnedFree {
  void operator()(void* memory) const noexcept;
};
using DeviceBuffer = std::unique_ptr<void, DeviceFree>;
template <class T>
using PinnedBuffer =
    std::unique_ptr<T[], PinnedFree>;  // pinned: copies from and to pageable memory are not asynchronous

DeviceBuffer device_buffer(size_t bytes);
PinnedBuffer<char> pinned_bytes(size_t bytes);
PinnedBuffer<int64_t> pinned_integers(size_t count);

class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void synchronize() const;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(cudaStream_t stream) const;
  // The stream must have reached both events.
  float milliseconds_since(const Event& earlier) const;

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace patch_runner
