#pragma once
#include <NvInferRuntime.h>

#include <memory>
#include <string>

#include "decoder_io.h"

namespace patch_runner {

// Prints warnings and errors to stderr.
class Log : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override;
};

// A deserialized engine, with the runtime and the logger that must outlive it.
class Engine {
 public:
  // plugin: a library to load first, or empty.  Throws a RunError.
  Engine(const std::string& path, const std::string& plugin);

  nvinfer1::ICudaEngine& get() const { return *engine_; }
  EngineDescription describe() const;

 private:
  Log log_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
};

}  // namespace patch_runner
