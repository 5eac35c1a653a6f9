#include "host/cuda_on_host.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>

// The types that CUDA only declares.
struct CUctx_st {};
struct CUgraph_st {
  std::vector<patch::host::Work> work;
};
struct CUgraphExec_st {
  std::vector<patch::host::Work> work;
};
struct CUstream_st {
  CUctx_st* context;
  bool blocking;
  std::vector<patch::host::Access> unfinished;  // of the work since the stream was waited for
  std::unique_ptr<CUgraph_st> capture;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  const void* thread = nullptr;  // that began the capture
  bool broken = false;           // the capture has failed
};

namespace patch::host {
namespace {

struct Allocation {
  size_t bytes;
  CUctx_st* context;
};

struct State {
  std::recursive_mutex lock;
  std::map<uintptr_t, Allocation> memory;
  std::set<CUstream_st*> streams;
  std::set<CUctx_st*> contexts;
  std::string fault;
};

State& state() {
  static State only;
  return only;
}
CUctx_st primary;
thread_local CUctx_st* current = &primary;
thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

using Lock = std::lock_guard<std::recursive_mutex>;

uintptr_t address(const void* p) { return reinterpret_cast<uintptr_t>(p); }

// Returns an error, and breaks the captures, if this thread may not make a call that could wait for the
// device.
cudaError_t unsafe_call() {
  if (thread_mode == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  bool forbidden = false;
  for (CUstream_st* s : state().streams)
    if (s->capture && (s->thread == &thread_mode ? s->mode != cudaStreamCaptureModeRelaxed
                                                 : s->mode == cudaStreamCaptureModeGlobal))
      s->broken = forbidden = true;
  return forbidden ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

// The default stream waits for streams that are blocking, which none can while it is captured.
cudaError_t use_default_stream() {
  bool forbidden = false;
  for (CUstream_st* s : state().streams)
    if (s->capture && s->blocking) s->broken = forbidden = true;
  return forbidden ? cudaErrorStreamCaptureImplicit : cudaSuccess;
}

std::string fault_of(const Access& a, const CUctx_st* context) {
  const auto after = state().memory.upper_bound(address(a.begin));
  if (after != state().memory.begin()) {
    const auto& [begin, allocation] = *std::prev(after);
    if (address(a.begin) + a.bytes <= begin + allocation.bytes)
      return allocation.context == context ? "" : "memory of another context is used";
  }
  return "memory that is not allocated is used";
}

bool overlap(const Access& a, const Access& b) {
  return address(a.begin) < address(b.begin) + b.bytes && address(b.begin) < address(a.begin) + a.bytes;
}

cudaError_t run(CUstream_st* stream, const Work& work) {
  if (stream->context != current) return found("a stream of another context is used");
  for (const Access& a : work.accesses) {
    if (a.bytes == 0) continue;
    if (const std::string fault = fault_of(a, current); !fault.empty()) return found(fault);
    for (const CUstream_st* other : state().streams)
      for (const Access& b : other->unfinished)
        if (other != stream && (a.writes || b.writes) && overlap(a, b))
          return found("race: two streams use the same memory, and one of them writes it");
    stream->unfinished.push_back(a);
  }
  return work.run();
}

cudaError_t run_all(CUstream_st* stream, const std::vector<Work>& all) {
  for (const Work& work : all)
    if (const cudaError_t e = run(stream, work); e != cudaSuccess) return e;
  return cudaSuccess;
}

}  // namespace

std::string& first_fault() { return state().fault; }

cudaError_t found(const std::string& fault) {
  if (first_fault().empty()) first_fault() = fault;
  return cudaErrorUnknown;
}

bool is_watched(cudaStream_t stream) {
  const Lock held(state().lock);
  return state().streams.count(stream) > 0;
}

cudaError_t enqueue(cudaStream_t stream, const Work& work) {
  const Lock held(state().lock);
  if (!is_watched(stream)) {
    if (const cudaError_t e = stream ? cudaSuccess : use_default_stream(); e != cudaSuccess) return e;
    return work.run();
  }
  if (!stream->capture) return run(stream, work);
  stream->capture->work.push_back(work);
  return cudaSuccess;
}

}  // namespace patch::host

using namespace patch::host;

#pragma GCC visibility push(default)
extern "C" {

cudaError_t cudaGetDevice(int* number) { return *number = 0, cudaSuccess; }

const char* cudaGetErrorString(cudaError_t e) {
  static thread_local std::string said;
  const Lock held(state().lock);
  said = e == cudaErrorUnknown && !first_fault().empty() ? first_fault() : "CUDA error " + std::to_string(e);
  return said.c_str();
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  return std::swap(thread_mode, *mode), cudaSuccess;
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
  const Lock held(state().lock);
  if (const cudaError_t e = unsafe_call(); e != cudaSuccess) return e;
  *p = std::aligned_alloc(256, (std::max<size_t>(bytes, 1) + 255) / 256 * 256);
  if (!*p) return cudaErrorMemoryAllocation;
  std::memset(*p, 0xa5, bytes);
  state().memory[address(*p)] = {bytes, current};
  return cudaSuccess;
}

cudaError_t cudaFree(void* p) {
  const Lock held(state().lock);
  if (const cudaError_t e = unsafe_call(); e != cudaSuccess) return e;
  if (!p) return cudaSuccess;
  const auto known = state().memory.find(address(p));
  if (known == state().memory.end()) return found("memory that is not allocated is freed");
  std::memset(p, 0xa5, known->second.bytes);
  state().memory.erase(known);
  return std::free(p), cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
  return enqueue(stream, {{{p, bytes, true}}, [=] { return std::memset(p, value, bytes), cudaSuccess; }});
}

// Copies to or from the host.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const Access access = kind == cudaMemcpyHostToDevice ? Access{to, bytes, true} : Access{from, bytes, false};
  return enqueue(stream, {{access}, [=] { return std::memcpy(to, from, bytes), cudaSuccess; }});
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  const Lock held(state().lock);
  *stream = new CUstream_st{current, flags != cudaStreamNonBlocking, {}, nullptr};
  return state().streams.insert(*stream), cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Lock held(state().lock);
  if (!state().streams.erase(stream)) return cudaErrorInvalidResourceHandle;
  return delete stream, cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Lock held(state().lock);
  if (!stream) return use_default_stream();
  if (!is_watched(stream)) return cudaErrorInvalidResourceHandle;
  if (stream->capture) return stream->broken = true, cudaErrorStreamCaptureUnsupported;
  stream->unfinished.clear();
  return first_fault().empty() ? cudaSuccess : cudaErrorUnknown;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  const Lock held(state().lock);
  if (!is_watched(stream) || stream->capture) return cudaErrorIllegalState;
  stream->capture = std::make_unique<CUgraph_st>();
  stream->mode = mode, stream->thread = &thread_mode, stream->broken = false;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Lock held(state().lock);
  *graph = nullptr;
  if (!is_watched(stream) || !stream->capture) return cudaErrorIllegalState;
  const std::unique_ptr<CUgraph_st> captured = std::move(stream->capture);
  if (stream->broken) return cudaErrorStreamCaptureInvalidated;
  *graph = new CUgraph_st(*captured);
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  return *count = graph->work.size(), cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  *made = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  const Lock held(state().lock);
  return is_watched(stream) ? run_all(stream, graph->work) : cudaErrorInvalidResourceHandle;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return delete graph, cudaSuccess; }

// Functions of the driver.
int cuCtxCreate_v2(CUctx_st** made, unsigned, int) {
  const Lock held(state().lock);
  *made = current = new CUctx_st;
  return state().contexts.insert(current), 0;
}

int cuCtxGetCurrent(CUctx_st** context) { return *context = current, 0; }
int cuCtxSetCurrent(CUctx_st* context) { return current = context ? context : &primary, 0; }

int cuCtxDestroy_v2(CUctx_st* context) {
  const Lock held(state().lock);
  if (!state().contexts.erase(context)) return 201;
  for (auto one = state().memory.begin(); one != state().memory.end();) {
    if (one->second.context != context) {
      ++one;
      continue;
    }
    // The address was allocated above.  NOLINTNEXTLINE(performance-no-int-to-ptr)
    std::free(reinterpret_cast<void*>(one->first));
    one = state().memory.erase(one);
  }
  if (current == context) current = &primary;
  return delete context, 0;
}

// Runs a function on a stream, for a library that stands in for one of NVIDIA's.
int patch_host_enqueue(void* stream, const std::function<int()>& run) {
  return enqueue(static_cast<cudaStream_t>(stream),
                 {{}, [run] { return run() ? cudaErrorUnknown : cudaSuccess; }});
}

}  // extern "C"
#pragma GCC visibility pop
