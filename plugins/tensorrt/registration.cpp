// The two ways TensorRT meets a plugin library:
//   dlopen alone (polygraphy --plugins, trtexec --staticPlugins, LD_PRELOAD): the static constructor
//   registers; registry.load_library, trtexec --dynamicPlugins, engines that carry the library: dlopen, then
//   getCreators, and TensorRT registers what that returns.  It refuses a name that is taken, so getCreators
//   first takes back what the constructor did.
// The library is linked with -z nodelete: unloading it would leave a registry with a dangling pointer.
#include <atomic>

#include "NvInferRuntime.h"
#include "tensorrt/log.h"
#include "tensorrt/patch_linear_creator.h"
#include "tensorrt/registry.h"

namespace patch {
namespace {

PatchLinearCreator& creator() {
  static PatchLinearCreator instance;
  return instance;
}

// Set while the registry holds our creator because of the constructor below.
std::atomic<bool> self_registered{false};

struct SelfRegistration {
  SelfRegistration() { self_registered = register_creator(creator()); }
};
const SelfRegistration at_load;

}  // namespace
}  // namespace patch

extern "C" {

__attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  patch::set_logger_finder(finder);
}

__attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&patch::creator()};
  if (patch::self_registered.exchange(false)) patch::deregister_creator(patch::creator());
  count = 1;
  return creators;
}

}  // extern "C"
