// Finds libcublasLt on the machine that runs the engine.
#pragma once
#include <string>

#include "dense_path/cublaslt_api.h"

namespace patch::cublaslt {

// Of a library that stays open, or null; `why` then says what was tried and how to mend it.  The first call
// decides for the process.
const Functions* functions(std::string* why);

// The handle of the current device, made when it is first asked for and kept.  Empty when there is one, else
// what is wrong.
std::string handle_here(Handle* handle);

}  // namespace patch::cublaslt
