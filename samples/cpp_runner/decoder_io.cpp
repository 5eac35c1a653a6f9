#include "decoder_io.h"

#include <algorithm>
#include <map>
#include <set>

#include "errors.h"

namespace patch_runner {
namespace {

constexpr const char* kNames[] = {"int64", "fp16", "bf16", "fp32", "another type"};

// Looks up tensors by name and collects all errors, so that one message reports them together.
class Inspection {
 public:
  explicit Inspection(const EngineDescription& engine) {
    for (const Tensor& tensor : engine.tensors) tensors_[tensor.name] = &tensor;
  }

  // Returns null if the tensor is missing or has another direction, rank or type.
  const Tensor* find(const std::string& name, bool is_input, size_t rank,
                     std::initializer_list<Element> allowed) {
    const auto found = tensors_.find(name);
    const std::string what = (is_input ? "input " : "output ") + name;
    if (found == tensors_.end() || found->second->is_input != is_input) return fail(what + " is missing");
    seen_.insert(name);
    const Tensor& tensor = *found->second;
    if (tensor.shape.size() != rank)
      return fail(what + " has " + std::to_string(tensor.shape.size()) + " dimensions, not " +
                  std::to_string(rank));
    if (std::find(allowed.begin(), allowed.end(), tensor.element) == allowed.end())
      return fail(what + " is " + kNames[static_cast<int>(tensor.element)] + ", not " + listed(allowed));
    return &tensor;
  }

  const Tensor* fail(const std::string& problem) {
    problems_ += "\n  " + problem;
    return nullptr;
  }

  bool has(const std::string& name) const { return tensors_.count(name) > 0; }

  void finish() {
    for (const auto& [name, tensor] : tensors_)
      if (!seen_.count(name)) fail((tensor->is_input ? "input " : "output ") + name + " is not known");
    if (!problems_.empty())
      throw RunError("the engine is not a decoder as patch-compile builds it:" + problems_);
  }

 private:
  static std::string listed(std::initializer_list<Element> elements) {
    std::string out;
    for (const Element e : elements)
      out += (out.empty() ? "" : " or ") + std::string(kNames[static_cast<int>(e)]);
    return out;
  }

  std::map<std::string, const Tensor*> tensors_;
  std::set<std::string> seen_;
  std::string problems_;
};

void describe_part(Inspection* inspection, const std::string& part, DecoderIo* io) {
  const Tensor* past =
      inspection->find("past_key_values." + part, true, 4, {Element::kHalf, Element::kBFloat16});
  const Tensor* present = inspection->find("present." + part, false, 4, {Element::kHalf, Element::kBFloat16});
  if (!past || !present) return;
  const int64_t kv_heads = past->shape[1], head_dim = past->shape[3];
  if (kv_heads < 1 || head_dim < 1)
    inspection->fail("input " + past->name + " has no fixed number of heads or size of a head");
  // The builder may not know an output's dimensions.  Known ones must equal those of the input.
  else if ((present->shape[1] >= 0 && present->shape[1] != kv_heads) ||
           (present->shape[3] >= 0 && present->shape[3] != head_dim) || present->element != past->element)
    inspection->fail("output " + present->name + " differs from input " + past->name);
  io->cache.push_back({past->name, present->name, kv_heads, head_dim, past->element});
}

// A layer counts if it has any of its four tensors, so that the error names the missing ones.
void describe_cache(Inspection* inspection, DecoderIo* io) {
  for (int layer = 0;; ++layer) {
    const std::string key = std::to_string(layer) + ".key", value = std::to_string(layer) + ".value";
    const auto either = [&](const std::string& prefix) {
      return inspection->has(prefix + key) || inspection->has(prefix + value);
    };
    if (layer > 0 && !either("past_key_values.") && !either("present.")) return;
    describe_part(inspection, key, io);
    describe_part(inspection, value, io);
  }
}

Range range_of(const Tensor& tensor, Phase phase, size_t axis) {
  return {tensor.range[phase].min.at(axis), tensor.range[phase].max.at(axis)};
}

std::string counted(int64_t count, const std::string& what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

void check_range(int64_t value, const Range& range, const std::string& asked, const std::string& what,
                 Phase phase) {
  if (value >= range.min && value <= range.max) return;
  throw RunError(asked + ", and profile " + std::to_string(phase) + " (" + name_of(phase) +
                 ") of the engine takes " + what + " of " + std::to_string(range.min) + " to " +
                 std::to_string(range.max));
}

}  // namespace

size_t bytes_of(Element element) {
  switch (element) {
    case Element::kInt64:
      return 8;
    case Element::kFloat:
      return 4;
    default:
      return 2;
  }
}

const char* name_of(Phase phase) { return phase == kPrefill ? "prefill" : "decode"; }

DecoderIo describe_decoder(const EngineDescription& engine) {
  Inspection inspection(engine);
  DecoderIo io{};
  if (engine.profiles < kPhases)
    inspection.fail("it has " + std::to_string(engine.profiles) +
                    " optimisation profile, not 2: prefill and decode");
  const Tensor* ids = inspection.find("input_ids", true, 2, {Element::kInt64});
  const Tensor* mask = inspection.find("attention_mask", true, 2, {Element::kInt64});
  inspection.find("position_ids", true, 2, {Element::kInt64});
  const Tensor* logits =
      inspection.find("logits", false, 3, {Element::kHalf, Element::kBFloat16, Element::kFloat});
  if (logits && logits->shape[2] < 1) inspection.fail("output logits has no fixed size of the vocabulary");
  describe_cache(&inspection, &io);
  inspection.finish();

  io.logits = logits->element;
  io.vocabulary = logits->shape[2];
  const auto past = std::find_if(engine.tensors.begin(), engine.tensors.end(),
                                 [&](const Tensor& t) { return t.name == io.cache[0].past; });
  for (const Phase phase : {kPrefill, kDecode})
    io.limits[phase] = {range_of(*ids, phase, 0), range_of(*ids, phase, 1), range_of(*past, phase, 2),
                        range_of(*mask, phase, 1)};
  return io;
}

void check_request(const DecoderIo& io, const std::vector<std::vector<int64_t>>& prompts,
                   int64_t new_tokens) {
  int64_t prompt = 0;
  for (const auto& ids : prompts) {
    prompt = std::max(prompt, static_cast<int64_t>(ids.size()));
    for (const int64_t id : ids)
      if (id >= io.vocabulary)
        throw RunError("token " + std::to_string(id) + " is not in the engine's vocabulary of " +
                       std::to_string(io.vocabulary));
  }
  const int64_t batch = prompts.size();
  const std::string tokens = "the prompt has " + counted(prompt, "token");
  const std::string asked = "there " + std::string(batch == 1 ? "is " : "are ") + counted(batch, "prompt");

  const Limits& prefill = io.limits[kPrefill];
  check_range(batch, prefill.batch, asked, "a batch", kPrefill);
  check_range(prompt, prefill.sequence, tokens, "a prompt", kPrefill);
  check_range(prompt, prefill.total, tokens, "an attention mask", kPrefill);
  check_range(0, prefill.past, "a prompt begins with 0 tokens in the cache", "a cache", kPrefill);
  if (new_tokens == 1) return;

  // The last new token is not fed back, so the cache need not hold it.
  const Limits& decode = io.limits[kDecode];
  const int64_t last = prompt + new_tokens - 2;
  const std::string room = counted(prompt, "prompt token") + " and " + counted(new_tokens, "new token") +
                           " need a cache of " + std::to_string(last);
  check_range(batch, decode.batch, asked, "a batch", kDecode);
  check_range(1, decode.sequence, "a step has 1 token", "a sequence", kDecode);
  check_range(prompt, decode.past, tokens, "a cache", kDecode);
  check_range(last, decode.past, room, "a cache", kDecode);
  check_range(prompt + 1, decode.total, tokens + " and a step 1", "an attention mask", kDecode);
  check_range(last + 1, decode.total, room + " and 1", "an attention mask", kDecode);
}

}  // namespace patch_runner
