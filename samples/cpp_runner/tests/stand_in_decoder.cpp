// A decoder whose next token depends on the ids, positions and order of all tokens that it can see.
#include <cmath>
#include <cstring>
#include <sstream>

#include "stand_in.h"

namespace stand_in {
namespace {

// Values are small integers, so that fp16 and bf16 hold them exactly.
int64_t read(const std::string& type, const void* values, int64_t i) {
  float value;
  if (type == "half") {
    _Float16 half;
    std::memcpy(&half, static_cast<const char*>(values) + 2 * i, 2);
    value = static_cast<float>(half);
  } else {
    const uint32_t wide = static_cast<uint32_t>(static_cast<const uint16_t*>(values)[i]) << 16;
    std::memcpy(&value, &wide, 4);
  }
  return std::isfinite(value) ? static_cast<int64_t>(value) : 99991;  // NaN: memory that was never written
}
void write(const std::string& type, void* values, int64_t i, float value) {
  if (type == "float") {
    static_cast<float*>(values)[i] = value;
  } else if (type == "half") {
    const auto half = static_cast<_Float16>(value);
    std::memcpy(static_cast<char*>(values) + 2 * i, &half, 2);
  } else {
    uint32_t wide;
    std::memcpy(&wide, &value, 4);
    static_cast<uint16_t*>(values)[i] = static_cast<uint16_t>(wide >> 16);
  }
}

struct Step {
  const Model& model;
  const Shapes& shapes;
  const Addresses& addresses;
  int64_t batch, sequence, past, total, layers, heads, head_dim;

  const int64_t* integers(const std::string& name) const {
    return static_cast<const int64_t*>(addresses.at(name));
  }
  void* present(int64_t layer, bool key) const {
    return addresses.at("present." + std::to_string(layer) + (key ? ".key" : ".value"));
  }

  // present = past, followed by the new tokens: keys are made from their ids, values from their positions.
  void append(int64_t layer, bool key) const {
    const std::string part = std::to_string(layer) + (key ? ".key" : ".value");
    const auto* old = static_cast<const char*>(addresses.at("past_key_values." + part));
    const int64_t* tokens = integers(key ? "input_ids" : "position_ids");
    auto* out = static_cast<char*>(present(layer, key));
    const size_t slot = head_dim * bytes_of(model.cache_type);
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t plane = b * heads + h;
        std::memcpy(out + plane * total * slot, old + plane * past * slot, past * slot);
        for (int64_t s = past; s < total; ++s)
          for (int64_t d = 0; d < head_dim; ++d)
            write(model.cache_type, out, (plane * total + s) * head_dim + d,
                  static_cast<float>((tokens[b * sequence + s - past] + 3 * layer + 5 * h + 7 * d) % 128));
      }
  }

  int64_t next_token(int64_t b, int64_t query) const {
    const int64_t* mask = integers("attention_mask");
    int64_t hash = 7;
    for (int64_t s = 0; s <= query; ++s) {
      if (s < query && mask[b * total + s] != 1) continue;
      for (int64_t layer = 0; layer < layers; ++layer)
        for (const bool key : {true, false})
          for (int64_t h = 0; h < heads; ++h)
            for (int64_t d = 0; d < head_dim; ++d)
              hash = (hash * 31 + read(model.cache_type, present(layer, key),
                                       ((b * heads + h) * total + s) * head_dim + d)) %
                     1000003;
    }
    return hash % model.sizes.at("vocab");
  }

  void write_logits() const {
    const int64_t vocab = model.sizes.at("vocab"), positions = shapes.at("logits")[1];
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t p = 0; p < positions; ++p) {
        const int64_t next = next_token(b, total - positions + p);
        for (int64_t v = 0; v < vocab; ++v)
          write(model.logits_type, addresses.at("logits"), (b * positions + p) * vocab + v,
                static_cast<float>(v == next ? 8 : v * 5 % 7));
      }
  }
};

}  // namespace

size_t bytes_of(const std::string& type) { return type == "int64" ? 8 : type == "float" ? 4 : 2; }

void run(const Model& model, const Shapes& shapes, const Addresses& addresses) {
  const auto& ids = shapes.at("input_ids");
  const auto& past = shapes.at("past_key_values.0.key");
  const Step step{model,   shapes,  addresses,        ids[0],
                  ids[1],  past[2], past[2] + ids[1], model.sizes.at("layers"),
                  past[1], past[3]};
  for (int64_t layer = 0; layer < step.layers; ++layer)
    for (const bool key : {true, false}) step.append(layer, key);
  step.write_logits();
}

const Tensor* Model::find(const std::string& name) const {
  for (const Tensor& tensor : tensors)
    if (tensor.name == name) return &tensor;
  return nullptr;
}

bool Model::read(const std::string& text) {
  std::istringstream lines(text);
  std::string line, word, name, value;
  if (!std::getline(lines, line) || line != "stand-in engine") return false;
  sizes = {{"layers", 2}, {"heads", 2},  {"head_dim", 4}, {"vocab", 61}, {"batch", 2},
           {"past", 16},  {"prompt", 8}, {"profiles", 2}, {"last", 0},   {"value_heads", 0}};
  std::vector<std::string> changes;
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    words >> name >> value;
    if (name == "type")
      cache_type = value;
    else if (name == "logits")
      logits_type = value;
    else if (name == "plugin")
      carries_plugin = value == "embedded";
    else if (sizes.count(name))
      sizes[name] = std::stoll(value);
    else
      changes.push_back(line);
  }

  const int64_t batch = sizes["batch"], prompt = sizes["prompt"], most = sizes["past"];
  const int64_t heads = sizes["heads"], dim = sizes["head_dim"];
  tensors = {
      {"input_ids", "int64", true, {-1, -1}, {{1, 1}, {1, 1}}, {{batch, prompt}, {batch, 1}}},
      {"attention_mask", "int64", true, {-1, -1}, {{1, 1}, {1, 2}}, {{batch, prompt}, {batch, most + 1}}},
      {"position_ids", "int64", true, {-1, -1}, {{1, 1}, {1, 1}}, {{batch, prompt}, {batch, 1}}},
      {"logits", logits_type, false, {-1, sizes["last"] ? 1 : -1, sizes["vocab"]}, {}, {}}};
  for (int64_t layer = 0; layer < sizes["layers"]; ++layer)
    for (const char* part : {".key", ".value"}) {
      const std::string suffix = std::to_string(layer) + part;
      tensors.push_back({"past_key_values." + suffix,
                         cache_type,
                         true,
                         {-1, heads, -1, dim},
                         {{1, heads, 0, dim}, {1, heads, 1, dim}},
                         {{batch, heads, 0, dim}, {batch, heads, most, dim}}});
      tensors.push_back({"present." + suffix, cache_type, false, {-1, heads, -1, dim}, {}, {}});
    }

  for (const std::string& change : changes) {
    std::istringstream words(change);
    words >> word >> name >> value;
    if (word == "add") tensors.push_back({name, "int64", true, {-1, -1}, {{1, 1}, {1, 1}}, {{9, 9}, {9, 9}}});
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i].name != name) continue;
      if (word == "retype") tensors[i].type = value;
      if (word == "rerank") tensors[i].dims.resize(std::stoull(value), -1);
      if (word == "widen") tensors[i].dims[1] = std::stoll(value);
      if (word == "drop") tensors.erase(tensors.begin() + static_cast<int64_t>(i));
    }
  }
  return true;
}

}  // namespace stand_in
