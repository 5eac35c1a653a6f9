// CUDA on a machine without a GPU, for the tests: memory, streams, captured graphs and contexts.  Work runs
// when it is enqueued, so what a GPU would do at the same time is looked for, not waited for:
//
//   memory     must be allocated, of the context that uses it, and is filled with a pattern at first
//   streams    two of them may not touch the same bytes before one of them is waited for, if either writes
//   captures   record work; a call that CUDA forbids during a capture fails, and the capture with it
//
// Only streams of cudaStreamCreateWithFlags are watched.  On any other, such as 0, work runs unchecked.
#pragma once
#include <cuda_runtime_api.h>

#include <functional>
#include <string>
#include <vector>

namespace patch::host {

struct Access {
  const void* begin;
  size_t bytes;
  bool writes;
};
struct Work {
  std::vector<Access> accesses;
  std::function<cudaError_t()> run;
};

// Runs work, or records it if the stream is being captured.
cudaError_t enqueue(cudaStream_t stream, const Work& work);
// Returns true for a stream of cudaStreamCreateWithFlags.
bool is_watched(cudaStream_t stream);

// Keeps the first fault that was found.  Returns the error that a GPU would report.
cudaError_t found(const std::string& fault);
std::string& first_fault();

}  // namespace patch::host
