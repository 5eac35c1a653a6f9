// Messages to TensorRT's logger.
#pragma once
#include <string>

#include "NvInferRuntime.h"

namespace patch {

using Severity = nvinfer1::ILogger::Severity;

// The logger of the engine that calls, where TensorRT offered a finder (setLoggerFinder); else the
// process-wide one of TensorRT; else stderr.
void log(Severity severity, const std::string& message) noexcept;
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

}  // namespace patch
