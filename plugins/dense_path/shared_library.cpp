#include "dense_path/shared_library.h"

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace patch {

#ifdef _WIN32

void* open_library(const char* name) noexcept { return LoadLibraryA(name); }

void* loaded_library(const char* name) noexcept {
  HMODULE found = nullptr;
  return GetModuleHandleExA(0, name, &found) ? found : nullptr;
}

void close_library(void* library) noexcept { FreeLibrary(static_cast<HMODULE>(library)); }

void* library_symbol(void* library, const char* name) noexcept {
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name));
}

std::string library_error() { return "Windows error " + std::to_string(GetLastError()); }

#else

void* open_library(const char* name) noexcept { return dlopen(name, RTLD_NOW | RTLD_LOCAL); }

void* loaded_library(const char* name) noexcept { return dlopen(name, RTLD_LAZY | RTLD_NOLOAD); }

void close_library(void* library) noexcept { dlclose(library); }

void* library_symbol(void* library, const char* name) noexcept { return dlsym(library, name); }

std::string library_error() { return dlerror(); }

#endif

}  // namespace patch
