#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace patch_runner {

struct Options {
  std::string engine;
  std::string plugin;  // empty: the library that the engine contains
  std::vector<std::vector<int64_t>> prompts;
  int64_t new_tokens = 32;
  std::optional<int64_t> eos;
  bool time = false;
  bool help = false;
};

extern const char* const kUsage;

// arguments: without the program's name.  Throws a UsageError.
Options parse_options(const std::vector<std::string>& arguments);

}  // namespace patch_runner
