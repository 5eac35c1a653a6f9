#pragma once
#include <NvInferRuntime.h>

#include <memory>
#include <vector>

#include "cuda.h"
#include "decoder_io.h"
#include "generation.h"
#include "kv_cache.h"
#include "statistics.h"

namespace patch_runner {

// An execution context with all memory for generations of one size, so that generating allocates nothing.
class Session {
 public:
  // size: a generation of the size to allocate for.  Throws a RunError if the engine's outputs do not have
  // the shapes of a decoder's.
  Session(nvinfer1::ICudaEngine* engine, const DecoderIo& io, const Generation& size);

  // Runs a generation to its end.  A session may run several generations of its size, one after the other.
  Times generate(Generation* generation);

 private:
  void select(Phase phase);
  float step(Generation* generation);
  void set_shapes(int64_t sequence, int64_t total);
  void set_addresses();
  void check_outputs(int64_t sequence) const;
  void upload_inputs(const Generation& generation);
  void download_last_logits();
  nvinfer1::Dims shape(const char* tensor) const { return context_->getTensorShape(tensor); }

  const DecoderIo& io_;
  const int64_t batch_;
  Stream stream_;
  Event begin_, end_;
  const CacheLayout layout_;
  DeviceBuffer cache_sets_[2];
  KvCache cache_;
  DeviceBuffer ids_, positions_, mask_, logits_;
  PinnedBuffer<int64_t> host_ids_, host_positions_, host_mask_;
  PinnedBuffer<char> host_logits_;
  std::vector<int64_t> next_;
  // The last member, so that it is destroyed before the memory that it uses.
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
};

}  // namespace patch_runner
