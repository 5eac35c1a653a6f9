// Creates PatchLinear plugins from the attributes of an ONNX node or of a serialized engine.
#pragma once
#include <array>

#include "tensorrt/patch_linear_plugin.h"

namespace patch {

class PatchLinearCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  PatchLinearCreator();
  // Returns null, and logs an error, if an attribute is missing or invalid.
  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  const char* getPluginName() const noexcept override { return kPluginName; }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

 private:
  std::array<nvinfer1::PluginField, 9> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace patch
