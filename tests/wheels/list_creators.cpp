// Loads TensorRT and a plugin, and prints the plugins that TensorRT's registry then knows: list_creators
// TENSORRT PLUGIN.  It is compiled for another machine, and run in an emulator.
#include <dlfcn.h>

#include <cstdio>

#include "tensorrt/abi.h"

int main(int, char** arguments) {
  void* tensorrt = dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL);
  if (!tensorrt || !dlopen(arguments[2], RTLD_NOW)) {
    std::puts(dlerror());
    return 1;
  }
  const auto get = reinterpret_cast<patch::Tables11::Registry* (*)()>(dlsym(tensorrt, "getPluginRegistry"));
  int32_t count = 0;
  auto* const* creators = get()->getAllCreators(&count);
  for (int32_t i = 0; i < count; ++i) {
    auto* creator = static_cast<nvinfer1::IPluginCreatorV3One*>(creators[i]);
    std::printf("%s %s\n", creator->getPluginName(), creator->getPluginVersion());
  }
  std::fflush(nullptr);
}
