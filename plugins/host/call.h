// A launch of the emulated kernels, as driver.cpp runs it.
#pragma once
#include <cstdint>

#include "host/machine.h"
#include "kernels/arguments.h"

namespace patch::host {

struct Call {
  LinearArguments arguments;
  int64_t slab_values[kKindCount], slab_words[kKindCount];
  int64_t index_words, partial_values, counter_words;
  int64_t first_block;  // earlier blocks are not run, so Y is incomplete if this is not 0
  int32_t scalar, config, copy_mode;
  uint32_t seed;
  const PartTable* table;  // of a stream; null: the one that its index and parts lead to
};

// patch_host_run and patch_host_error of driver.cpp.
using RunCall = int (*)(const Call* call, Stats* stats);
using CallError = const char* (*)();

}  // namespace patch::host
