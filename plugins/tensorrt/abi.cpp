#include "tensorrt/abi.h"

namespace patch {
namespace {

template <class Result>
Result call(const char* name, Result otherwise) noexcept {
  using Function = Result (*)() noexcept;
  const auto function = reinterpret_cast<Function>(tensorrt_symbol(name));
  return function ? function() : otherwise;
}

// Returns true if the loaded library has the function tables of abi.h.  RTX: tested with 1.7, the oldest
// supported version.  Full TensorRT keeps its tables within a major version.
bool known() noexcept {
  const auto major = call<int32_t>("getInferLibMajorVersion", -1);
  if constexpr (kRtx)
    return major == 1 && call<int32_t>("getInferLibMinorVersion", -1) >= 7;
  else
    return major == NV_TENSORRT_MAJOR;
}

}  // namespace

Logger* loaded_logger() noexcept { return known() ? call<Logger*>("getLogger", nullptr) : nullptr; }
Registry* loaded_registry() noexcept {
  return known() ? call<Registry*>("getPluginRegistry", nullptr) : nullptr;
}

}  // namespace patch
