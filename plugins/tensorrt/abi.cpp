#include "tensorrt/abi.h"

namespace patch {
namespace {

int32_t number(const char* function) noexcept {
  const auto get = reinterpret_cast<int32_t (*)() noexcept>(tensorrt_symbol(function));
  return get ? get() : -1;
}

}  // namespace

// Full TensorRT keeps its tables within a major version.  RTX: tested with 1.7, the oldest supported version.
LoadedTables loaded_tables() noexcept {
  const int32_t major = number("getInferLibMajorVersion");
  if (kRtx) {
    const bool known = major == 1 && number("getInferLibMinorVersion") >= 7;
    return known ? LoadedTables::k11 : LoadedTables::kUnknown;
  }
  if (major == 10) return LoadedTables::k10;
  return major == 11 ? LoadedTables::k11 : LoadedTables::kUnknown;
}

}  // namespace patch
