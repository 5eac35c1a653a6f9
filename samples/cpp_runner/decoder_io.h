// Inputs, outputs and limits of a decoder's engine, without TensorRT's types.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace patch_runner {

using Shape = std::vector<int64_t>;  // -1: any size

enum class Element { kInt64, kHalf, kBFloat16, kFloat, kOther };
size_t bytes_of(Element element);

// Optimisation profiles, by number.
enum Phase { kPrefill = 0, kDecode = 1 };
constexpr int kPhases = 2;
const char* name_of(Phase phase);

struct ShapeRange {
  Shape min, max;
};

struct Tensor {
  std::string name;
  bool is_input;
  Element element;
  Shape shape;
  std::array<ShapeRange, kPhases> range;  // allowed shapes of an input, by profile
};

struct EngineDescription {
  std::vector<Tensor> tensors;
  int profiles;
};

struct Range {
  int64_t min, max;
};
struct Limits {
  Range batch, sequence, past, total;  // total: tokens in the cache after a step
};

// Key or value of one layer.  `past` is an input; `present` is the output, with the new tokens appended.
struct CacheTensor {
  std::string past, present;
  int64_t kv_heads, head_dim;
  Element element;
};

struct DecoderIo {
  std::vector<CacheTensor> cache;  // key and value of layer 0, of layer 1, …
  Element logits;
  int64_t vocabulary;
  std::array<Limits, kPhases> limits;
};

// Throws a RunError that lists all differences between the engine and a decoder of patch-compile.
DecoderIo describe_decoder(const EngineDescription& engine);

// Throws a RunError if a profile does not allow the request.  Its message has the requested and the allowed
// sizes.
void check_request(const DecoderIo& io, const std::vector<std::vector<int64_t>>& prompts, int64_t new_tokens);

}  // namespace patch_runner
