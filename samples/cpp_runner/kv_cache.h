// The KV cache in two sets of static buffers.  In each step an engine writes the whole cache again, with the
// new tokens appended, and its output must not overlap its input.  So a step reads one set and writes the
// other, and then the two change places:
//
//   prefill        past: set 0 (empty)    present: set 1
//   first step     past: set 1            present: set 0
//   second step    past: set 0            present: set 1
#pragma once
#include <utility>
#include <vector>

#include "decoder_io.h"

namespace patch_runner {

// Offsets of the tensors of a set in its allocation, for `capacity` tokens.
struct CacheLayout {
  std::vector<size_t> offsets;
  size_t bytes = 0;

  CacheLayout(const std::vector<CacheTensor>& cache, int64_t batch, int64_t capacity) {
    for (const CacheTensor& tensor : cache) {
      offsets.push_back(bytes);
      const size_t used = batch * tensor.kv_heads * capacity * tensor.head_dim * bytes_of(tensor.element);
      bytes += (used + kAlignment - 1) / kAlignment * kAlignment;
    }
  }

 private:
  static constexpr size_t kAlignment = 256;  // required by setTensorAddress
};

class KvCache {
 public:
  KvCache(CacheLayout layout, void* first, void* second)
      : layout_(std::move(layout)), past_(static_cast<char*>(first)), present_(static_cast<char*>(second)) {}

  void* past(size_t tensor) const { return past_ + layout_.offsets[tensor]; }
  void* present(size_t tensor) const { return present_ + layout_.offsets[tensor]; }

  // Makes the present that a step has written the past of the next step.
  void swap() { std::swap(past_, present_); }

 private:
  CacheLayout layout_;
  char *past_, *present_;
};

}  // namespace patch_runner
