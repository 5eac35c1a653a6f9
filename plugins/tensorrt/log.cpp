#include "tensorrt/log.h"

#include <atomic>
#include <cstdio>

#include "tensorrt/abi.h"

namespace patch {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> finder{nullptr};

// Returns false if there is no logger.
template <class Tables>
bool log_line(Tables, Severity severity, const char* line) {
  auto* logger = loaded_object<typename Tables::Logger>("getLogger");
  // The class of the headers may have another table, see abi.h.
  if (void* given = finder.load()) {
    auto* special = static_cast<typename Tables::LoggerFinder*>(given)->findLogger();
    if (special) logger = special;
  }
  if (logger) logger->log(severity, line);
  return logger != nullptr;
}

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* f) noexcept { finder.store(f); }

void log(Severity severity, const std::string& message) noexcept {
  try {
    const std::string line = "PatchLinear: " + message;
    if (!with_tables([&](auto tables) { return log_line(tables, severity, line.c_str()); }))
      std::fprintf(stderr, "%s\n", line.c_str());
  } catch (...) {
    std::fputs("PatchLinear: out of memory while logging\n", stderr);
  }
}

}  // namespace patch
