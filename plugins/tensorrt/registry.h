// Puts a creator into the plugin registry of the TensorRT loaded in this process.
#pragma once
#include "NvInferRuntime.h"

namespace patch {

// True when it did.  It does nothing when no registry it can call is loaded (see abi.h; load_library then
// remains) or the registry already knows a plugin of this name.
bool register_creator(nvinfer1::IPluginCreatorV3One& creator) noexcept;
// Undoes a register_creator that returned true.
void deregister_creator(const nvinfer1::IPluginCreatorV3One& creator) noexcept;

}  // namespace patch
