// The CUDA functions that the runner calls, on the CPU.  Device memory is host memory filled with NaNs.  Work
// on a stream runs when the program waits for it, so that a missing wait shows.
#include <cuda_runtime_api.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <set>

#include "stand_in.h"

namespace stand_in {
namespace {

constexpr size_t kGuard = 256;  // bytes after an allocation that must stay unchanged

struct Allocation {
  size_t bytes;
  bool device;
};

struct Machine {
  std::map<char*, Allocation> memory;
  std::set<const void*> objects;  // streams and events
  std::map<const void*, float> reached;
  std::deque<std::function<void()>> work;
  std::map<std::string, int> calls;
  uintptr_t handles = 0;
  float clock = 0;

  // Runs after main has returned, when everything must be freed.
  ~Machine() {
    if (memory.empty() && objects.empty()) return;
    std::fprintf(stderr, "stand-in: %zu allocations and %zu streams or events are left\n", memory.size(),
                 objects.size());
    _exit(70);
  }
} machine;

void wait() {
  while (!machine.work.empty()) {
    machine.work.front()();
    machine.work.pop_front();
  }
}

bool covers(const void* begin, size_t bytes, bool device) {
  auto next = machine.memory.upper_bound(static_cast<char*>(const_cast<void*>(begin)));
  if (next == machine.memory.begin()) return false;
  const auto& [base, allocation] = *--next;
  return allocation.device == device && static_cast<const char*>(begin) + bytes <= base + allocation.bytes;
}

cudaError_t allocate(void** out, size_t bytes, bool device) {
  count_allocation();
  const size_t all = (bytes + 2 * kGuard - 1) / kGuard * kGuard;
  auto* memory = static_cast<char*>(std::aligned_alloc(256, all));
  std::memset(memory, 0xff, all);
  machine.memory[memory] = {bytes, device};
  *out = memory;
  return cudaSuccess;
}

cudaError_t release(void* memory, bool device) {
  wait();
  const auto found = machine.memory.find(static_cast<char*>(memory));
  if (found == machine.memory.end() || found->second.device != device) return cudaErrorInvalidValue;
  const char* end = found->first + found->second.bytes;
  for (size_t i = 0; i < kGuard; ++i)
    if (end[i] != '\xff') {
      std::fprintf(stderr, "stand-in: written past the end of %zu bytes\n", found->second.bytes);
      _exit(71);
    }
  machine.memory.erase(found);
  std::free(memory);
  return cudaSuccess;
}

template <class Handle>
cudaError_t create(Handle* out) {
  *out = reinterpret_cast<Handle>(++machine.handles);
  machine.objects.insert(*out);
  return cudaSuccess;
}
template <class Handle>
cudaError_t destroy(Handle handle) {
  wait();
  if (!machine.objects.erase(handle)) return cudaErrorInvalidResourceHandle;
  return cudaSuccess;
}

bool known(const void* object) { return machine.objects.count(object) > 0; }

}  // namespace

bool fails(const std::string& function) {
  const char* asked = std::getenv("STAND_IN_FAIL");
  return asked && function + ":" + std::to_string(++machine.calls[function]) == asked;
}

void enqueue(cudaStream_t, std::function<void()> work) { machine.work.push_back(std::move(work)); }
bool on_device(const void* begin, size_t bytes) { return covers(begin, bytes, true); }
void advance_clock(float milliseconds) { machine.clock += milliseconds; }

}  // namespace stand_in

using namespace stand_in;

#define STAND_IN_CALL(function, error) \
  const Inside in;                     \
  if (fails(function)) return error

extern "C" {

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : "a CUDA error";
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  STAND_IN_CALL("cudaMalloc", cudaErrorMemoryAllocation);
  return allocate(memory, bytes, true);
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  STAND_IN_CALL("cudaMallocHost", cudaErrorMemoryAllocation);
  return allocate(memory, bytes, false);
}
cudaError_t cudaFree(void* memory) {
  const Inside in;
  return release(memory, true);
}
cudaError_t cudaFreeHost(void* memory) {
  const Inside in;
  return release(memory, false);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  STAND_IN_CALL("cudaMemcpyAsync", cudaErrorInvalidValue);
  if (kind != cudaMemcpyHostToDevice || !known(stream) || !covers(to, bytes, true) ||
      !covers(from, bytes, false))
    return cudaErrorInvalidValue;
  enqueue(stream, [=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  STAND_IN_CALL("cudaMemcpy2DAsync", cudaErrorInvalidValue);
  const size_t written = (height - 1) * to_pitch + width, read = (height - 1) * from_pitch + width;
  if (kind != cudaMemcpyDeviceToHost || !known(stream) || !covers(to, written, false) ||
      !covers(from, read, true) || to_pitch < width || from_pitch < width)
    return cudaErrorInvalidValue;
  enqueue(stream, [=] {
    for (size_t row = 0; row < height; ++row)
      std::memcpy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch,
                  width);
  });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  STAND_IN_CALL("cudaStreamCreateWithFlags", cudaErrorInvalidValue);
  return create(stream);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Inside in;
  return destroy(stream);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  STAND_IN_CALL("cudaStreamSynchronize", cudaErrorIllegalAddress);
  if (!known(stream)) return cudaErrorInvalidResourceHandle;
  wait();
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  STAND_IN_CALL("cudaEventCreate", cudaErrorInvalidValue);
  return create(event);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Inside in;
  return destroy(event);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  STAND_IN_CALL("cudaEventRecord", cudaErrorInvalidValue);
  if (!known(event) || !known(stream)) return cudaErrorInvalidResourceHandle;
  machine.reached.erase(event);
  enqueue(stream, [=] { machine.reached[event] = machine.clock; });
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  STAND_IN_CALL("cudaEventElapsedTime", cudaErrorInvalidValue);
  if (!machine.reached.count(begin) || !machine.reached.count(end)) return cudaErrorNotReady;
  *milliseconds = machine.reached[end] - machine.reached[begin];
  return cudaSuccess;
}

}  // extern "C"
