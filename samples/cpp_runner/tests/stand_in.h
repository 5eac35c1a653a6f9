// Shared code of the stand-ins for CUDA and TensorRT.  They are stricter than the real libraries: behaviour
// that is undefined or merely slow there is an error here.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace stand_in {

// Marks code of the stand-ins, whose allocations are not counted; only those of the program are.
struct Inside {
  Inside();
  ~Inside();
};
void count_allocation();
int64_t allocations();  // number so far, of host and device memory

// Returns true if STAND_IN_FAIL names this call of a function: "cudaMalloc:2" is the second call of
// cudaMalloc.
bool fails(const std::string& function);

// Queues `work`, which runs when the program waits for the stream, and not before.
void enqueue(cudaStream_t stream, std::function<void()> work);
// Returns true if these bytes are within one live allocation of device memory.
bool on_device(const void* begin, size_t bytes);
void advance_clock(float milliseconds);  // the clock that events read

// A decoder.  Its file lists sizes and changes to the network, one per line (see Model::read).
struct Tensor {
  std::string name, type;
  bool is_input;
  std::vector<int64_t> dims;                   // -1: dynamic
  std::vector<std::vector<int64_t>> min, max;  // shapes, by profile
};
struct Model {
  std::map<std::string, int64_t> sizes;
  std::string cache_type = "half", logits_type = "half";
  bool carries_plugin = true;  // if false, the plugin must be loaded before the engine
  std::vector<Tensor> tensors;

  // Reads lines such as "layers 2", "type half" and "logits float".  "drop NAME", "retype NAME TYPE", "rerank
  // NAME RANK", "widen NAME SIZE" and "add NAME" change the network.  Returns false if the text is no engine.
  bool read(const std::string& text);
  const Tensor* find(const std::string& name) const;
};

using Shapes = std::map<std::string, std::vector<int64_t>>;
using Addresses = std::map<std::string, void*>;
size_t bytes_of(const std::string& type);
// Computes all outputs from the memory at the addresses.
void run(const Model& model, const Shapes& shapes, const Addresses& addresses);

}  // namespace stand_in
