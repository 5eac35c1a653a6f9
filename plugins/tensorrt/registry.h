// Registers a creator in the plugin registry of the TensorRT that this process has loaded.
#pragma once
#include "NvInferRuntime.h"

namespace patch {

// Returns true if it registered the creator.  It does nothing if the registry already knows a plugin of this
// name, or if there is no registry that it can call (see abi.h); load_library then still works.
bool register_creator(nvinfer1::IPluginCreatorV3One& creator) noexcept;
// Undoes a register_creator that returned true.
void deregister_creator(const nvinfer1::IPluginCreatorV3One& creator) noexcept;

}  // namespace patch
