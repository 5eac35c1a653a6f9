// Registers the plugin, in both ways in which TensorRT loads a plugin library:
//
//   dlopen alone                polygraphy --plugins, trtexec --staticPlugins, LD_PRELOAD.
//                               The static constructor registers the creator.
//   dlopen, then getCreators    registry.load_library, trtexec --dynamicPlugins, engines that embed it.
//                               TensorRT registers the creator that getCreators returns.
//
// TensorRT refuses to register a name twice, so getCreators first deregisters what the constructor
// registered. The library is linked with -z nodelete: unloading it would leave a dangling pointer in the
// registry.
#include <atomic>

#include "NvInferRuntime.h"
#include "tensorrt/library.h"
#include "tensorrt/log.h"
#include "tensorrt/patch_linear_creator.h"
#include "tensorrt/registry.h"

namespace patch {
namespace {

PatchLinearCreator& creator() {
  static PatchLinearCreator instance;
  return instance;
}

// True while the registry holds the creator that the constructor below registered.
std::atomic<bool> self_registered{false};

struct SelfRegistration {
  SelfRegistration() noexcept { self_registered = register_creator(creator()); }
};
const SelfRegistration at_load;

}  // namespace
}  // namespace patch

extern "C" {

PATCH_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { patch::set_logger_finder(finder); }

PATCH_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&patch::creator()};
  if (patch::self_registered.exchange(false)) patch::deregister_creator(patch::creator());
  count = 1;
  return creators;
}

}  // extern "C"
