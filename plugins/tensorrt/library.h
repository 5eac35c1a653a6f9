// The TensorRT already loaded in this process.  The plugin links against none, so it finds its symbols by
// name.
#pragma once
#include <string_view>

#ifndef PATCH_BACKEND
#error "define PATCH_BACKEND as tensorrt or tensorrt-rtx"
#endif
#define PATCH_STRING_(...) #__VA_ARGS__
#define PATCH_STRING(...) PATCH_STRING_(__VA_ARGS__)

namespace patch {

inline constexpr std::string_view kBackend = PATCH_STRING(PATCH_BACKEND);
static_assert(kBackend == "tensorrt" || kBackend == "tensorrt-rtx", "unknown PATCH_BACKEND");
inline constexpr bool kRtx = kBackend == "tensorrt-rtx";

// Address of an extern "C" function of the backend's library, or null when that library is not loaded.
void* tensorrt_symbol(const char* name) noexcept;

}  // namespace patch
