#include "tensorrt/patch_linear_creator.h"

#include <memory>
#include <new>
#include <string>
#include <string_view>

#include "tensorrt/log.h"

namespace patch {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

int32_t* attribute(Attributes* a, std::string_view name) {
  if (name == "in_features") return &a->in_features;
  if (name == "out_features") return &a->out_features;
  if (name == "panel_rows") return &a->panel_rows;
  return nullptr;
}

// What is wrong with the fields; empty when they describe a linear.
std::string read(const nvinfer1::PluginFieldCollection& fields, Attributes* a) {
  for (int32_t i = 0; i < fields.nbFields; ++i) {
    const PluginField& f = fields.fields[i];
    int32_t* value = attribute(a, f.name);
    if (!value) continue;
    if (f.type != PluginFieldType::kINT32 || f.length != 1 || !f.data)
      return std::string(f.name) + " must be one INT32";
    *value = *static_cast<const int32_t*>(f.data);
  }
  if (a->in_features <= 0 || a->in_features % 4 != 0) return "in_features must be a positive multiple of 4";
  if (a->out_features <= 0) return "out_features must be positive";
  if (a->panel_rows != 64 && a->panel_rows != 128) return "panel_rows must be 64 or 128";
  return {};
}

}  // namespace

PatchLinearCreator::PatchLinearCreator()
    : fields_{PluginField("in_features", nullptr, PluginFieldType::kINT32, 1),
              PluginField("out_features", nullptr, PluginFieldType::kINT32, 1),
              PluginField("panel_rows", nullptr, PluginFieldType::kINT32, 1)},
      collection_{static_cast<int32_t>(fields_.size()), fields_.data()} {}

nvinfer1::IPluginV3* PatchLinearCreator::createPlugin(const char* name,
                                                      const nvinfer1::PluginFieldCollection* fields,
                                                      nvinfer1::TensorRTPhase) noexcept {
  try {
    Attributes attributes;
    const std::string wrong = fields ? read(*fields, &attributes) : "no attributes";
    if (wrong.empty()) return std::make_unique<PatchLinearPlugin>(attributes).release();
    log(Severity::kERROR, std::string(name ? name : "unnamed node") + ": " + wrong);
  } catch (const std::bad_alloc&) {
    log(Severity::kERROR, "out of memory while making a plugin");
  }
  return nullptr;
}

}  // namespace patch
