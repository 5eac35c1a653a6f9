// Exceptions that end the program with a message.  The exit codes are those of patch-compile.
#pragma once
#include <stdexcept>

namespace patch_runner {

// The command line is wrong: exit code 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The engine, the request or the machine does not fit: exit code 1.
struct RunError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace patch_runner
