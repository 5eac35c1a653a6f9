#pragma once
#include <NvInferRuntime.h>

#include <memory>
#include <string>

#include "decoder_io.h"

namespace patch_runner {

// Warnings and errors go to stderr.
class Log : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override;
};

// An engine that has been read from its file, and what must outlive it.
class Engine {
 public:
  // plugin: a library to load first, or empty.  Throws RunError.
  Engine(const std::string& path, const std::string& plugin);

  nvinfer1::ICudaEngine& get() const { return *engine_; }
  EngineDescription describe() const;

 private:
  Log log_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
};

}  // namespace patch_runner
