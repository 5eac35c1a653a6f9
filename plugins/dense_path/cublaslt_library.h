// Finds libcublasLt on the machine that runs the engine.
#pragma once
#include <string>

#include "dense_path/cublaslt_api.h"

namespace patch::cublaslt {

// Returns the functions of the library, which stays open, or null; `why` then says what was tried and how to
// fix it.  The result of the first call holds for the whole process.
const Functions* functions(std::string* why);

// Gets the handle of the current context, which is created at the first call and kept.  Returns an error, or
// "" on success.
std::string handle_here(Handle* handle);

}  // namespace patch::cublaslt
