// Messages to TensorRT's logger.
#pragma once
#include <string>

#include "NvInferRuntime.h"
#include "tensorrt/abi.h"

namespace patch {

// Logs to the logger of the calling engine if TensorRT provided a finder (setLoggerFinder), else to
// TensorRT's logger of the process, else to stderr.
void log(Severity severity, const std::string& message) noexcept;
// Logs an error.  Returns -1, with which the functions of a plugin report one.
inline int32_t fail(const std::string& message) {
  log(Severity::kERROR, message);
  return -1;
}
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

}  // namespace patch
