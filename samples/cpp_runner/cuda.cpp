#include "cuda.h"

#include <algorithm>
#include <cstdio>
#include <string>

#include "errors.h"

namespace patch_runner {
namespace {

std::string failure(cudaError_t status, const std::string& call) {
  return call + " failed: " + cudaGetErrorString(status);
}

// For destructors, which can't throw: prints the error.
void warn(cudaError_t status, const char* call) noexcept {
  if (status != cudaSuccess) std::fprintf(stderr, "%s failed: %s\n", call, cudaGetErrorString(status));
}

void check_allocation(cudaError_t status, const char* call, size_t bytes) {
  if (status != cudaSuccess)
    throw RunError(failure(status, call + (" of " + std::to_string(bytes)) + " bytes"));
}

void* pinned(size_t bytes) {
  void* memory = nullptr;
  check_allocation(cudaMallocHost(&memory, bytes), "cudaMallocHost", bytes);
  return memory;
}

}  // namespace

void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) throw RunError(failure(status, call));
}

void DeviceFree::operator()(void* memory) const noexcept { warn(cudaFree(memory), "cudaFree"); }
void PinnedFree::operator()(void* memory) const noexcept { warn(cudaFreeHost(memory), "cudaFreeHost"); }

DeviceBuffer device_buffer(size_t bytes) {
  void* memory = nullptr;
  check_allocation(cudaMalloc(&memory, bytes), "cudaMalloc", bytes);
  return DeviceBuffer(memory);
}
PinnedBuffer<char> pinned_bytes(size_t bytes) {
  return PinnedBuffer<char>(static_cast<char*>(pinned(bytes)));
}
PinnedBuffer<int64_t> pinned_integers(size_t count) {
  return PinnedBuffer<int64_t>(static_cast<int64_t*>(pinned(count * sizeof(int64_t))));
}

// A stream of its own: TensorRT would synchronise the device on the default stream.
Stream::Stream() {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
}
Stream::~Stream() { warn(cudaStreamDestroy(stream_), "cudaStreamDestroy"); }
void Stream::synchronize() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

Event::Event() { check(cudaEventCreate(&event_), "cudaEventCreate"); }
Event::~Event() { warn(cudaEventDestroy(event_), "cudaEventDestroy"); }
void Event::record(cudaStream_t stream) const { check(cudaEventRecord(event_, stream), "cudaEventRecord"); }
float Event::milliseconds_since(const Event& earlier) const {
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, earlier.event_, event_), "cudaEventElapsedTime");
  return milliseconds;
}

}  // namespace patch_runner
