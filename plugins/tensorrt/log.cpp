#include "tensorrt/log.h"

#include <atomic>
#include <cstdio>

#include "tensorrt/abi.h"

namespace patch {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> finder{nullptr};

// Returns the finder's logger if there is one.  RTX's finder has another function table, so it is not used.
[[maybe_unused]] nvinfer1::ILogger* better(nvinfer1::ILogger* general) {
  auto* f = finder.load();
  auto* special = f ? f->findLogger() : nullptr;
  return special ? special : general;
}
[[maybe_unused]] RtxLogger* better(RtxLogger* general) { return general; }

Logger* find_logger() {
  auto* general = loaded_logger();
  return general ? better(general) : nullptr;
}

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* f) noexcept { finder.store(f); }

void log(Severity severity, const std::string& message) noexcept {
  try {
    const std::string line = "PatchLinear: " + message;
    if (auto* logger = find_logger())
      logger->log(severity, line.c_str());
    else
      std::fprintf(stderr, "%s\n", line.c_str());
  } catch (...) {
    std::fputs("PatchLinear: out of memory while logging\n", stderr);
  }
}

}  // namespace patch
