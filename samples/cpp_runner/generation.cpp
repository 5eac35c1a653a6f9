#include "generation.h"

#include <cmath>
#include <cstring>
#include <utility>

namespace patch_runner {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;

constexpr size_t kAlignment = 256;  // required by setTensorAddress
constexpr int64_t kPadding = 0;     // any token id would do, because no row reads it

int64_t longest(const std::vector<Ids>& prompts) {
  size_t most = 0;
  for (const Ids& prompt : prompts) most = std::max(most, prompt.size());
  return static_cast<int64_t>(most);
}

float from_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const float magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                          : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                          : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

float value_at(DataType type, const void* values, int64_t index) {
  if (type == DataType::kFLOAT) return static_cast<const float*>(values)[index];
  const uint16_t bits = static_cast<const uint16_t*>(values)[index];
  if (type == DataType::kHALF) return from_half(bits);
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// Returns the most likely token, the first of equal ones.
int64_t argmax(DataType type, const void* logits, int64_t vocabulary) {
  int64_t best = 0;
  float most = -INFINITY;
  for (int64_t token = 0; token < vocabulary; ++token) {
    const float value = value_at(type, logits, token);
    if (std::isnan(value))
      throw std::runtime_error("the logit of token " + std::to_string(token) + " is NaN");
    if (value > most) most = value, best = token;
  }
  return best;
}

}  // namespace

Generation::Generation(const Engine& engine, const Request& request)
    : engine_(engine),
      request_(request),
      prompt_(longest(request.prompts)),
      sequence_(prompt_),
      rows_(request.prompts.size()) {
  for (const Ids& prompt : request.prompts)
    for (const int64_t id : prompt)
      if (id >= engine.vocabulary())
        throw std::runtime_error("token " + std::to_string(id) + " is not in the engine's vocabulary of " +
                                 std::to_string(engine.vocabulary()));
  engine.check_step(kPrefill, batch(), prompt_, 0);
  if (request.new_tokens > 1) {  // the last new token is not fed back
    engine.check_step(kDecode, batch(), 1, prompt_);
    engine.check_step(kDecode, batch(), 1, prompt_ + request.new_tokens - 2);
  }
  context_.reset(engine->createExecutionContext());
  require(context_ != nullptr, "createExecutionContext");
  select(kPrefill);
  set_shapes();
  allocate();
}

void Generation::allocate() {
  const int64_t most = prompt_ + request_.new_tokens - 1;
  size_t set = 0;
  for (const CacheTensor& tensor : engine_.cache()) {
    offsets_.push_back(set);
    const size_t used = batch() * tensor.heads * most * tensor.head_dim * bytes_of(tensor.type);
    set += (used + kAlignment - 1) / kAlignment * kAlignment;
  }
  past_set_ = device_memory(set), present_set_ = device_memory(set);
  const size_t prompts = batch() * prompt_ * sizeof(int64_t), slots = batch() * most * sizeof(int64_t);
  const size_t row = engine_.vocabulary() * bytes_of(engine_->getTensorDataType("logits"));
  ids_ = device_memory(prompts), positions_ = device_memory(prompts), mask_ = device_memory(slots);
  logits_ = device_memory(batch() * shape("logits").d[1] * row);
  host_ids_ = pinned_memory(prompts), host_positions_ = pinned_memory(prompts),
  host_mask_ = pinned_memory(slots);
  host_logits_ = pinned_memory(batch() * row);
  for (Ids& generated : rows_) generated.reserve(request_.new_tokens);
}

// One context serves both profiles.  Two would need scratch memory for both.
Times Generation::run() {
  Times times;
  times.steps.reserve(request_.new_tokens);
  times.prefill = step();
  past_ = prompt_, sequence_ = 1;
  if (!done()) select(kDecode);
  for (; !done(); ++past_) times.steps.push_back(step());
  return times;
}

void Generation::select(Profile profile) {
  require(context_->setOptimizationProfileAsync(profile, stream_.get()), "setOptimizationProfileAsync");
}

bool Generation::done() const {
  return std::all_of(rows_.begin(), rows_.end(), [&](const Ids& row) {
    return static_cast<int64_t>(row.size()) == request_.new_tokens || row.back() == request_.eos;
  });
}

// Returns milliseconds from the upload of the inputs to the download of the logits.
float Generation::step() {
  write_inputs();
  check(cudaEventRecord(begin_.get(), stream_.get()), "cudaEventRecord");
  upload(ids_, host_ids_, sequence_);
  upload(positions_, host_positions_, sequence_);
  upload(mask_, host_mask_, past_ + sequence_);
  set_shapes();
  set_addresses();
  require(context_->enqueueV3(stream_.get()), "enqueueV3");
  // An engine computes the logits of all positions or of the last only.
  const int64_t positions = shape("logits").d[1];
  const size_t row = engine_.vocabulary() * bytes_of(engine_->getTensorDataType("logits"));
  const char* last = static_cast<const char*>(logits_.get()) + (positions - 1) * row;
  check(cudaMemcpy2DAsync(host_logits_.get(), row, last, positions * row, row, batch(),
                          cudaMemcpyDeviceToHost, stream_.get()),
        "cudaMemcpy2DAsync");
  check(cudaEventRecord(end_.get(), stream_.get()), "cudaEventRecord");
  check(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
  accept();
  std::swap(past_set_, present_set_);
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, begin_.get(), end_.get()), "cudaEventElapsedTime");
  return milliseconds;
}

void Generation::write_inputs() {
  auto* id = static_cast<int64_t*>(host_ids_.get());
  auto* position = static_cast<int64_t*>(host_positions_.get());
  auto* mask = static_cast<int64_t*>(host_mask_.get());
  for (size_t row = 0; row < rows_.size(); ++row) {
    const Ids& prompt = request_.prompts[row];
    const int64_t padding = prompt_ - static_cast<int64_t>(prompt.size());
    for (int64_t slot = past_; slot < past_ + sequence_; ++slot) {
      *position++ = std::max<int64_t>(slot - padding, 0);
      // A row that has ended repeats its last token, and its output is ignored.
      *id++ = past_ > 0 ? rows_[row].back() : slot < padding ? kPadding : prompt[slot - padding];
    }
    for (int64_t slot = 0; slot < past_ + sequence_; ++slot) *mask++ = slot >= padding;
  }
}

void Generation::upload(const DeviceMemory& to, const PinnedMemory& from, int64_t columns) const {
  const size_t bytes = batch() * columns * sizeof(int64_t);
  check(cudaMemcpyAsync(to.get(), from.get(), bytes, cudaMemcpyHostToDevice, stream_.get()),
        "cudaMemcpyAsync");
}

// Gives the context the shapes of a step, and checks the outputs' shapes, which follow from them.
void Generation::set_shapes() {
  engine_.each_input(batch(), sequence_, past_, [&](const char* name, const Dims& wanted) {
    if (!context_->setInputShape(name, wanted)) require(false, "setInputShape of " + std::string(name));
  });
  for (const CacheTensor& tensor : engine_.cache()) {
    const Dims found = shape(tensor.present.c_str());
    const Dims expected = dims({batch(), tensor.heads, past_ + sequence_, tensor.head_dim});
    if (found.nbDims != 4 || !std::equal(found.d, found.d + 4, expected.d))
      throw std::runtime_error("output " + tensor.present + " is " + spelled(found) + ", not " +
                               spelled(expected));
  }
}

void Generation::set_addresses() {
  const auto set = [&](const char* name, void* address) {
    if (!context_->setTensorAddress(name, address))
      require(false, "setTensorAddress of " + std::string(name));
  };
  set("input_ids", ids_.get());
  set("position_ids", positions_.get());
  set("attention_mask", mask_.get());
  set("logits", logits_.get());
  for (size_t i = 0; i < offsets_.size(); ++i) {
    set(engine_.cache()[i].past.c_str(), static_cast<char*>(past_set_.get()) + offsets_[i]);
    set(engine_.cache()[i].present.c_str(), static_cast<char*>(present_set_.get()) + offsets_[i]);
  }
}

// Appends the most likely token of each row that has not ended.
void Generation::accept() {
  const DataType type = engine_->getTensorDataType("logits");
  const size_t bytes = engine_.vocabulary() * bytes_of(type);
  for (size_t row = 0; row < rows_.size(); ++row) {
    const int64_t next =
        argmax(type, static_cast<char*>(host_logits_.get()) + row * bytes, engine_.vocabulary());
    if (rows_[row].empty() || rows_[row].back() != request_.eos) rows_[row].push_back(next);
  }
}

}  // namespace patch_runner
