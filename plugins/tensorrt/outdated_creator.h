// Refuses PatchLinear nodes of version 1, in ONNX files and in engines, by name.  Without it TensorRT would
// only say that it finds no plugin.
#pragma once
#include "NvInferRuntime.h"

namespace patch {

class OutdatedCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  // Returns null, and logs how to build the engine anew.
  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  const char* getPluginName() const noexcept override;
  const char* getPluginVersion() const noexcept override { return "1"; }
  const char* getPluginNamespace() const noexcept override;

 private:
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace patch
