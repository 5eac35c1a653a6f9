#include "tensorrt/outdated_creator.h"

#include <new>
#include <string>

#include "tensorrt/log.h"
#include "tensorrt/patch_linear_plugin.h"

namespace patch {

nvinfer1::IPluginV3* OutdatedCreator::createPlugin(const char* name, const nvinfer1::PluginFieldCollection*,
                                                   nvinfer1::TensorRTPhase) noexcept {
  try {
    log(Severity::kERROR, std::string(name ? name : "unnamed node") +
                              ": PatchLinear of version 1, and this plugin runs version " + kPluginVersion +
                              ". Build the model again: patch-compile build --recipe OUT/recipe.yaml");
  } catch (const std::bad_alloc&) {
    log(Severity::kERROR, "out of memory while refusing a plugin");
  }
  return nullptr;
}
const char* OutdatedCreator::getPluginName() const noexcept { return kPluginName; }
const char* OutdatedCreator::getPluginNamespace() const noexcept { return kPluginNamespace; }

}  // namespace patch
