#include "tensorrt/patch_linear_creator.h"

#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensorrt/log.h"

namespace patch {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

int32_t* attribute(Attributes* a, std::string_view name) {
  if (name == "in_features") return &a->in_features;
  if (name == "out_features") return &a->out_features;
  if (name == "panel_rows") return &a->panel_rows;
  if (name == "gated") return &a->gated;
  if (name == "residual") return &a->residual;
  return nullptr;
}

constexpr int32_t kLongestName = 64;  // bytes of a string; a longer one names nothing

// Reads a string.  Returns false for one that is none, or is longer than any name.  The ONNX parser passes
// strings with their length, and they may end in a NUL.
bool read_name(const PluginField& f, std::string_view* name) {
  if (f.length < 0 || f.length > kLongestName || (!f.data && f.length > 0)) return false;
  *name = {static_cast<const char*>(f.data), static_cast<size_t>(f.length)};
  while (!name->empty() && name->back() == '\0') name->remove_suffix(1);
  return true;
}

// Returns the number of the name that the field has, -1 if unknown.
template <size_t Count>
int32_t number_of(const PluginField& f, const char* const (&names)[Count]) {
  std::string_view name;
  if (!read_name(f, &name)) return -1;
  for (size_t i = 0; i < Count; ++i)
    if (name == names[i]) return static_cast<int32_t>(i);
  return -1;
}

std::string read_index(const PluginField& f, std::vector<int32_t>* index) {
  if (f.type != PluginFieldType::kINT32 || f.length < 0 || (!f.data && f.length > 0))
    return "index must be INT32 numbers";
  index->resize(f.length);
  if (f.length > 0) std::memcpy(index->data(), f.data, f.length * sizeof(int32_t));  // it need not be aligned
  return {};
}

int64_t packed_panels(const Attributes& a) {
  return ceil_div(int64_t{a.out_features} << a.gated, a.panel_rows);
}

// Reads the fields.  Returns an error, or "".
std::string read(const nvinfer1::PluginFieldCollection& fields, Attributes* a, PackedIndex* index) {
  std::vector<int32_t> numbers;
  std::string_view kinds;
  if (fields.nbFields < 0 || (fields.nbFields > 0 && !fields.fields)) return "no attributes";
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    const PluginField& f = fields.fields[i];
    if (!f.name) return "attribute " + std::to_string(i) + " has no name";
    if (f.name == std::string_view("activation")) {
      if (f.type != PluginFieldType::kCHAR) return "activation must be a string";
      a->activation = number_of(f, kActivationNames);
      continue;
    }
    if (f.name == std::string_view("weights")) {
      if (f.type != PluginFieldType::kCHAR) return "weights must be a string";
      a->weights = number_of(f, kWeightTypeNames);
      continue;
    }
    if (f.name == std::string_view("kinds")) {
      if (f.type != PluginFieldType::kCHAR || !read_name(f, &kinds)) return "kinds must be a string";
      continue;
    }
    if (f.name == std::string_view("index")) {
      if (std::string wrong = read_index(f, &numbers); !wrong.empty()) return wrong;
      continue;
    }
    int32_t* value = attribute(a, f.name);
    if (!value) continue;
    if (f.type != PluginFieldType::kINT32 || f.length != 1 || !f.data)
      return std::string(f.name) + " must be one INT32";
    std::memcpy(value, f.data, sizeof(*value));  // it need not be aligned
  }
  if (a->in_features <= 0 || a->in_features % 4 != 0) return "in_features must be a positive multiple of 4";
  if (a->out_features <= 0) return "out_features must be positive";
  if (a->in_features > kMostFeatures || a->out_features > kMostFeatures)
    return "in_features and out_features must be at most " + std::to_string(kMostFeatures);
  if (a->panel_rows != 64 && a->panel_rows != 128) return "panel_rows must be 64 or 128";
  if (a->activation < 0) return "activation must be empty, gelu, gelu_tanh or silu";
  if ((a->gated | a->residual) & ~1) return "gated and residual must be 0 or 1";
  if (a->weights < 0)
    return "weights must be float16, bfloat16, int8, w8a8 or int4, and this plugin knows no other type; a "
           "newer one may";
  const Weights weights = weights_of(a->weights);
  const bool bytes = weights == Weights::kW8A8;
  if (is_quantised(weights) && !bytes && a->panel_rows != 64)
    return std::string("panel_rows must be 64 where weights is ") + kWeightTypeNames[a->weights];
  if (weights == Weights::kInt4 && a->in_features % kSlabColumns != 0)
    return "in_features must be a multiple of 64 where weights is int4, whose scales are for 64 columns";
  if (bytes && a->in_features > kMostByteColumns)
    return "in_features must be at most " + std::to_string(kMostByteColumns) +
           " where weights is w8a8, whose sums have 32 bits";
  if (a->gated && a->out_features % 8 != 0) return "out_features must be a multiple of 8 where gated is 1";
  Kinds known = kinds_named(kinds, weights);
  if (known.empty())
    return "kinds is '" + std::string(kinds) + "', and must be dense,2:4 and others that this plugin knows" +
           (bytes ? " where weights is w8a8" : "") +
           ", in this order: " + names_of(all_kinds(weights), weights);
  if (known.size() > kPatchKinds && !bytes && a->panel_rows != 64)
    return "panel_rows must be 64 where kinds has more than dense,2:4";
  const int64_t panels = packed_panels(*a), columns = ceil_div(a->in_features, kSlabColumns);
  if (panels * columns > kMostSlabs) return "W has more than 2^30 slabs";
  return index->take(std::move(numbers), std::move(known), weights, panels, columns);
}

}  // namespace

PatchLinearCreator::PatchLinearCreator()
    : fields_{PluginField("in_features", nullptr, PluginFieldType::kINT32, 1),
              PluginField("out_features", nullptr, PluginFieldType::kINT32, 1),
              PluginField("panel_rows", nullptr, PluginFieldType::kINT32, 1),
              PluginField("gated", nullptr, PluginFieldType::kINT32, 1),
              PluginField("residual", nullptr, PluginFieldType::kINT32, 1),
              PluginField("activation", nullptr, PluginFieldType::kCHAR, 1),
              PluginField("weights", nullptr, PluginFieldType::kCHAR, 1),
              PluginField("kinds", nullptr, PluginFieldType::kCHAR, 1),
              PluginField("index", nullptr, PluginFieldType::kINT32, 1)},
      collection_{static_cast<int32_t>(fields_.size()), fields_.data()} {}

nvinfer1::IPluginV3* PatchLinearCreator::createPlugin(const char* name,
                                                      const nvinfer1::PluginFieldCollection* fields,
                                                      nvinfer1::TensorRTPhase) noexcept {
  try {
    Attributes attributes;
    auto index = std::make_shared<PackedIndex>();
    const std::string wrong = fields ? read(*fields, &attributes, index.get()) : "no attributes";
    if (wrong.empty()) return std::make_unique<PatchLinearPlugin>(attributes, std::move(index)).release();
    log(Severity::kERROR, std::string(name ? name : "unnamed node") + ": " + wrong);
  } catch (const std::bad_alloc&) {
    log(Severity::kERROR, "out of memory while making a plugin");
  }
  return nullptr;
}

}  // namespace patch
