// Greedy generation with an engine.
//
// Shorter prompts are padded on the left, so that every row ends with its last token and all rows append at
// the same slot of the cache.  The mask hides the padding, and positions do not count it:
//
//   prompts 5,6,7 and 8     ids  5 6 7    mask  1 1 1    positions  0 1 2
//                                0 0 8          0 0 1               0 0 0
//
// The KV cache has two sets of buffers.  In each step the engine writes the whole cache again, with the new
// tokens appended, and its output must not overlap its input.  So a step reads one set and writes the other,
// and then the two change places.
#pragma once
#include <optional>
#include <vector>

#include "cuda.h"
#include "engine.h"

namespace patch_runner {

using Ids = std::vector<int64_t>;

struct Request {
  std::vector<Ids> prompts;
  int64_t new_tokens = 32;
  std::optional<int64_t> eos;
};

// Milliseconds of the prefill and of each decode step.
struct Times {
  float prefill = 0;
  std::vector<float> steps;
};

// One generation, with all memory that it needs.
class Generation {
 public:
  // Throws a std::runtime_error if the engine does not take the request.
  Generation(const Engine& engine, const Request& request);

  Times run();                                            // once
  const std::vector<Ids>& rows() const { return rows_; }  // the new tokens of each prompt

 private:
  int64_t batch() const { return static_cast<int64_t>(request_.prompts.size()); }
  void allocate();
  void select(Profile profile);
  float step();
  bool done() const;
  void write_inputs();
  void set_shapes();
  void set_addresses();
  void accept();
  void upload(const DeviceMemory& to, const PinnedMemory& from, int64_t columns) const;
  nvinfer1::Dims shape(const char* tensor) const { return context_->getTensorShape(tensor); }

  const Engine& engine_;
  const Request& request_;
  const int64_t prompt_;         // tokens of the longest prompt
  int64_t sequence_, past_ = 0;  // new and old tokens of the current step
  std::vector<Ids> rows_;
  Stream stream_ = new_stream();
  Event begin_ = new_event(), end_ = new_event();
  std::vector<size_t> offsets_;  // of each tensor in a set of the cache
  DeviceMemory past_set_, present_set_, ids_, positions_, mask_, logits_;
  PinnedMemory host_ids_, host_positions_, host_mask_, host_logits_;
  // The last member, so that it is destroyed before the memory that it uses.
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
};

}  // namespace patch_runner
