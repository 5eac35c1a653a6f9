// The CUDA functions that the runner calls, on the CPU.  They are stricter than the real ones: memory begins
// as NaNs, and work on a stream runs when the program waits for it, and not before.
#include <cuda_runtime_api.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <set>

#include "stand_in.h"

namespace {

struct Machine {
  std::map<char*, size_t> memory;  // allocations
  std::set<const void*> objects;   // streams and events
  std::map<const void*, float> reached;
  std::deque<std::function<void()>> work;
  std::map<std::string, int> calls;
  uintptr_t handles = 0;
  float clock = 0;

  ~Machine() {  // after main
    if (memory.empty() && objects.empty()) return;
    std::fputs("stand-in: memory, streams or events are left\n", stderr);
    _exit(70);
  }
} machine;

cudaError_t result(bool succeeded) { return succeeded ? cudaSuccess : cudaErrorInvalidValue; }

cudaError_t allocate(void** out, size_t bytes) {
  *out = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  std::memset(*out, 0xff, bytes);
  machine.memory[static_cast<char*>(*out)] = bytes;
  return cudaSuccess;
}
cudaError_t release(void* memory) {
  if (!machine.memory.erase(static_cast<char*>(memory))) return cudaErrorInvalidValue;
  std::free(memory);
  return cudaSuccess;
}
template <class Handle>
cudaError_t create(Handle* out) {
  machine.objects.insert(*out = reinterpret_cast<Handle>(++machine.handles));
  return cudaSuccess;
}

}  // namespace

namespace stand_in {

bool fails(const std::string& function) {
  const char* asked = std::getenv("STAND_IN_FAIL");
  return asked && function + ":" + std::to_string(++machine.calls[function]) == asked;
}

bool covered(const void* begin, size_t bytes) {
  auto next = machine.memory.upper_bound(static_cast<char*>(const_cast<void*>(begin)));
  if (next == machine.memory.begin()) return false;
  --next;
  return static_cast<const char*>(begin) + bytes <= next->first + next->second;
}

void enqueue(std::function<void()> work) { machine.work.push_back(std::move(work)); }
void advance_clock(float milliseconds) { machine.clock += milliseconds; }

}  // namespace stand_in

using namespace stand_in;

extern "C" {

const char* cudaGetErrorString(cudaError_t) { return "a CUDA error"; }
cudaError_t cudaMalloc(void** memory, size_t bytes) {
  return fails("cudaMalloc") ? cudaErrorMemoryAllocation : allocate(memory, bytes);
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  return fails("cudaMallocHost") ? cudaErrorMemoryAllocation : allocate(memory, bytes);
}
cudaError_t cudaFree(void* memory) { return release(memory); }
cudaError_t cudaFreeHost(void* memory) { return release(memory); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  if (fails("cudaMemcpyAsync") || !covered(to, bytes) || !covered(from, bytes)) return cudaErrorInvalidValue;
  enqueue([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t) {
  if (fails("cudaMemcpy2DAsync") || !covered(to, (height - 1) * to_pitch + width) ||
      !covered(from, (height - 1) * from_pitch + width))
    return cudaErrorInvalidValue;
  enqueue([=] {
    for (size_t row = 0; row < height; ++row)
      std::memcpy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch,
                  width);
  });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return fails("cudaStreamCreateWithFlags") ? cudaErrorInvalidValue : create(stream);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return result(machine.objects.erase(stream)); }
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  if (fails("cudaStreamSynchronize")) return cudaErrorIllegalAddress;
  for (; !machine.work.empty(); machine.work.pop_front()) machine.work.front()();
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return fails("cudaEventCreate") ? cudaErrorInvalidValue : create(event);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) { return result(machine.objects.erase(event)); }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  if (fails("cudaEventRecord")) return cudaErrorInvalidValue;
  machine.reached.erase(event);
  enqueue([=] { machine.reached[event] = machine.clock; });
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  if (fails("cudaEventElapsedTime") || !machine.reached.count(begin) || !machine.reached.count(end))
    return cudaErrorNotReady;
  *milliseconds = machine.reached[end] - machine.reached[begin];
  return cudaSuccess;
}

}  // extern "C"
