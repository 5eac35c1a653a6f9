// Opens shared libraries, on Linux and on Windows.
#pragma once
#include <string>

namespace patch {

// Returns a library, or null if it can't be opened.  A name without a folder also finds a library that the
// process has already loaded.
void* open_library(const char* name) noexcept;
// Returns a library that the process has already loaded, or null.
void* loaded_library(const char* name) noexcept;
// Gives back what either returned.
void close_library(void* library) noexcept;
// Returns the address of a function of the library, or null.
void* library_symbol(void* library, const char* name) noexcept;
// Returns the reason why the last open_library of this thread failed.
std::string library_error();

}  // namespace patch
