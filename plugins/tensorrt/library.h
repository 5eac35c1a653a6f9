// Finds symbols of the TensorRT that this process has loaded.  The plugin does not link against TensorRT.
#pragma once
#include <string_view>

#ifndef PATCH_BACKEND
#error "define PATCH_BACKEND as tensorrt or tensorrt-rtx"
#endif
#define PATCH_STRING_(...) #__VA_ARGS__
#define PATCH_STRING(...) PATCH_STRING_(__VA_ARGS__)

#define PATCH_EXPORT __attribute__((visibility("default")))

namespace patch {

inline constexpr std::string_view kBackend = PATCH_STRING(PATCH_BACKEND);
static_assert(kBackend == "tensorrt" || kBackend == "tensorrt-rtx", "unknown PATCH_BACKEND");
inline constexpr bool kRtx = kBackend == "tensorrt-rtx";

// Returns the address of an extern "C" function of the backend's library, or null if the library is not
// loaded.
void* tensorrt_symbol(const char* name) noexcept;

}  // namespace patch
