// Memory, streams and events of the CUDA runtime that free themselves.
#pragma once
#include <cuda_runtime_api.h>

#include <memory>
#include <stdexcept>
#include <string>

namespace patch_runner {

inline void check(cudaError_t status, const std::string& call) {
  if (status != cudaSuccess) throw std::runtime_error(call + " failed: " + cudaGetErrorString(status));
}

template <auto Free>
struct FreeWith {
  template <class T>
  void operator()(T* handle) const noexcept {
    Free(handle);
  }
};
using DeviceMemory = std::unique_ptr<void, FreeWith<cudaFree>>;
using PinnedMemory = std::unique_ptr<void, FreeWith<cudaFreeHost>>;
using Stream = std::unique_ptr<CUstream_st, FreeWith<cudaStreamDestroy>>;
using Event = std::unique_ptr<CUevent_st, FreeWith<cudaEventDestroy>>;

inline DeviceMemory device_memory(size_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes), "cudaMalloc of " + std::to_string(bytes) + " bytes");
  return DeviceMemory(memory);
}

// Pinned: copies from and to other memory of the host are not asynchronous.
inline PinnedMemory pinned_memory(size_t bytes) {
  void* memory = nullptr;
  check(cudaMallocHost(&memory, bytes), "cudaMallocHost of " + std::to_string(bytes) + " bytes");
  return PinnedMemory(memory);
}

// Not the default stream, on which TensorRT would synchronise the device.
inline Stream new_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  return Stream(stream);
}

inline Event new_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "cudaEventCreate");
  return Event(event);
}

}  // namespace patch_runner
