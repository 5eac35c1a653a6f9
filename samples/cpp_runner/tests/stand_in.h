// What the stand-ins for CUDA and TensorRT share.  Both are stricter than the real ones: what those leave
// undefined, or only slow, is an error here.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace stand_in {

// The program's own allocations are counted, those of the stand-ins are not.
struct Inside {
  Inside();
  ~Inside();
};
void count_allocation();
int64_t allocations();  // so far, of host and of device memory

// Whether this call of a function is the one that STAND_IN_FAIL names: "cudaMalloc:2" is the second
// cudaMalloc.
bool fails(const std::string& function);

// Runs `work` when the stream is waited for, not before.
void enqueue(cudaStream_t stream, std::function<void()> work);
// Whether these bytes lie in one live allocation of device memory.
bool on_device(const void* begin, size_t bytes);
void advance_clock(float milliseconds);  // of the events

// A decoder: its file lists sizes, a line each, and what is wrong with it (see Model::read).
struct Tensor {
  std::string name, type;
  bool is_input;
  std::vector<int64_t> dims;                   // -1: dynamic
  std::vector<std::vector<int64_t>> min, max;  // by profile
};
struct Model {
  std::map<std::string, int64_t> sizes;
  std::string cache_type = "half", logits_type = "half";
  bool carries_plugin = true;  // otherwise it must be loaded before
  std::vector<Tensor> tensors;

  // "layers 2", "type half", "logits float", … one a line; "drop NAME", "retype NAME TYPE", "rerank NAME
  // RANK", "add NAME" make it another network.  False when it is no engine.
  bool read(const std::string& text);
  const Tensor* find(const std::string& name) const;
};

using Shapes = std::map<std::string, std::vector<int64_t>>;
using Addresses = std::map<std::string, void*>;
size_t bytes_of(const std::string& type);
// Computes all outputs from what lies at the addresses now.
void run(const Model& model, const Shapes& shapes, const Addresses& addresses);

}  // namespace stand_in
