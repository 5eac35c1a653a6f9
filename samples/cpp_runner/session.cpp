#include "session.h"

#include <algorithm>
#include <string>

#include "errors.h"
#include "sampling.h"

namespace patch_runner {
namespace {

using nvinfer1::Dims;

constexpr const char* kSaysWhy = " failed; TensorRT says why above";

Dims dims(std::initializer_list<int64_t> sizes) {
  Dims out{};
  out.nbDims = static_cast<int32_t>(sizes.size());
  std::copy(sizes.begin(), sizes.end(), out.d);
  return out;
}

bool equal(const Dims& a, const Dims& b) {
  return a.nbDims == b.nbDims && std::equal(a.d, a.d + a.nbDims, b.d);
}

std::string spelled(const Dims& shape) {
  std::string out;
  for (int32_t i = 0; i < shape.nbDims; ++i) out += (i ? ", " : "") + std::to_string(shape.d[i]);
  return "[" + out + "]";
}

void require(bool succeeded, const char* call) {
  if (!succeeded) throw RunError(std::string(call) + kSaysWhy);
}

int64_t most_tokens(const Generation& size) { return size.prompt() + size.new_tokens() - 1; }

}  // namespace

Session::Session(nvinfer1::ICudaEngine* engine, const DecoderIo& io, const Generation& size)
    : io_(io),
      batch_(size.batch()),
      layout_(io.cache, batch_, most_tokens(size)),
      cache_sets_{device_buffer(layout_.bytes), device_buffer(layout_.bytes)},
      cache_(layout_, cache_sets_[0].get(), cache_sets_[1].get()),
      next_(batch_),
      context_(engine->createExecutionContext()) {
  require(context_ != nullptr, "createExecutionContext");
  select(kPrefill);
  set_shapes(size.prompt(), size.prompt());
  check_outputs(size.prompt());
  const size_t prompts = batch_ * size.prompt(), slots = batch_ * most_tokens(size);
  ids_ = device_buffer(prompts * sizeof(int64_t));
  positions_ = device_buffer(prompts * sizeof(int64_t));
  mask_ = device_buffer(slots * sizeof(int64_t));
  logits_ = device_buffer(batch_ * shape("logits").d[1] * io.vocabulary * bytes_of(io.logits));
  host_ids_ = pinned_integers(prompts);
  host_positions_ = pinned_integers(prompts);
  host_mask_ = pinned_integers(slots);
  host_logits_ = pinned_bytes(batch_ * io.vocabulary * bytes_of(io.logits));
}

Times Session::generate(Generation* generation) {
  Times times;
  times.steps.reserve(generation->new_tokens());
  select(kPrefill);
  times.prefill = step(generation);
  if (!generation->done()) select(kDecode);
  while (!generation->done()) times.steps.push_back(step(generation));
  return times;
}

// One context serves both phases.  Two contexts would need scratch memory for both, and the profile changes
// only once.
void Session::select(Phase phase) {
  require(context_->setOptimizationProfileAsync(phase, stream_), "setOptimizationProfileAsync");
}

float Session::step(Generation* generation) {
  const int64_t sequence = generation->sequence();
  generation->write_inputs(host_ids_.get(), host_positions_.get(), host_mask_.get());
  begin_.record(stream_);
  upload_inputs(*generation);
  set_shapes(sequence, generation->total());
  set_addresses();
  require(context_->enqueueV3(stream_), "enqueueV3");
  download_last_logits();
  end_.record(stream_);
  stream_.synchronize();

  const size_t row = io_.vocabulary * bytes_of(io_.logits);
  for (int64_t i = 0; i < batch_; ++i)
    next_[i] = argmax(io_.logits, host_logits_.get() + i * row, io_.vocabulary);
  generation->accept(next_);
  cache_.swap();
  return end_.milliseconds_since(begin_);
}

void Session::set_shapes(int64_t sequence, int64_t total) {
  const auto set = [&](const char* name, const Dims& shape) {
    if (!context_->setInputShape(name, shape))
      throw RunError("setInputShape of " + std::string(name) + " to " + spelled(shape) + kSaysWhy);
  };
  set("input_ids", dims({batch_, sequence}));
  set("position_ids", dims({batch_, sequence}));
  set("attention_mask", dims({batch_, total}));
  for (const CacheTensor& tensor : io_.cache)
    set(tensor.past.c_str(), dims({batch_, tensor.kv_heads, total - sequence, tensor.head_dim}));
}

void Session::set_addresses() {
  const auto set = [&](const char* name, void* address) {
    if (!context_->setTensorAddress(name, address))
      throw RunError("setTensorAddress of " + std::string(name) + kSaysWhy);
  };
  set("input_ids", ids_.get());
  set("position_ids", positions_.get());
  set("attention_mask", mask_.get());
  set("logits", logits_.get());
  for (size_t i = 0; i < io_.cache.size(); ++i) {
    set(io_.cache[i].past.c_str(), cache_.past(i));
    set(io_.cache[i].present.c_str(), cache_.present(i));
  }
}

// Checks the outputs' shapes, which are dynamic until the inputs' shapes are set.  The buffers are sized for
// them.
void Session::check_outputs(int64_t sequence) const {
  const auto check_shape = [&](const char* name, const Dims& expected) {
    const Dims found = shape(name);
    if (!equal(found, expected))
      throw RunError("output " + std::string(name) + " is " + spelled(found) + " after a prompt, not " +
                     spelled(expected));
  };
  const int64_t positions = shape("logits").d[1] == 1 ? 1 : sequence;
  check_shape("logits", dims({batch_, positions, io_.vocabulary}));
  for (const CacheTensor& tensor : io_.cache)
    check_shape(tensor.present.c_str(), dims({batch_, tensor.kv_heads, sequence, tensor.head_dim}));
}

void Session::upload_inputs(const Generation& generation) {
  const auto upload = [&](void* device, const int64_t* host, int64_t columns) {
    const size_t bytes = batch_ * columns * sizeof(int64_t);
    check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
  };
  upload(ids_.get(), host_ids_.get(), generation.sequence());
  upload(positions_.get(), host_positions_.get(), generation.sequence());
  upload(mask_.get(), host_mask_.get(), generation.total());
}

// Copies the logits of each row's last position.  An engine computes the logits of all positions or of the
// last only.
void Session::download_last_logits() {
  const int64_t positions = shape("logits").d[1];
  const size_t row = io_.vocabulary * bytes_of(io_.logits);
  const char* last = static_cast<const char*>(logits_.get()) + (positions - 1) * row;
  check(cudaMemcpy2DAsync(host_logits_.get(), row, last, positions * row, row, batch_, cudaMemcpyDeviceToHost,
                          stream_),
        "cudaMemcpy2DAsync");
}

}  // namespace patch_runner
