#include "tensorrt/library.h"

#include <dlfcn.h>

namespace patch {
namespace {

// Both backends export the same symbols, so a plugin searches the library of its own backend only.  Versioned
// names come first, because the wheels contain no others; they are those that loaded_tables() knows.
// The lean and the dispatch runtime come last: they run engines that the full library built, without it.
constexpr const char* kRtxLibraries[] = {"libtensorrt_rtx.so.1", "libtensorrt_rtx.so"};
constexpr const char* kFullLibraries[] = {
    "libnvinfer.so.11",         "libnvinfer.so.10",      "libnvinfer.so",
    "libnvinfer_lean.so.11",    "libnvinfer_lean.so.10", "libnvinfer_dispatch.so.11",
    "libnvinfer_dispatch.so.10"};

template <class Names>
void* find_in(const Names& libraries, const char* symbol) noexcept {
  for (const char* library : libraries) {
    void* handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
    if (!handle) continue;
    void* found = dlsym(handle, symbol);
    dlclose(handle);  // gives back a reference; the library stays loaded
    if (found) return found;
  }
  return nullptr;
}

}  // namespace

void* tensorrt_symbol(const char* name) noexcept {
  return kRtx ? find_in(kRtxLibraries, name) : find_in(kFullLibraries, name);
}

}  // namespace patch
