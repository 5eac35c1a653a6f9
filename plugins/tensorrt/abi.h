// The interfaces of TensorRT that the plugin CALLS.  The interfaces that it implements are versioned and the
// same in both backends.  But the virtual function tables of the logger and the registry differ:
//
//                    full TensorRT 10                    TensorRT-RTX 1.7 (library and Python bindings)
//   ILogger          begins with `log`                   an IVersionedInterface: two functions before `log`
//   IPluginRegistry  has four functions for V2 plugins   does not have them
//
// An RTX plugin may be compiled with full TensorRT's headers, so this file declares RTX's two classes.  They
// are not in an unnamed namespace: the compiler would see that no class derives from them, and would call the
// pure virtual functions directly.
#pragma once
#include <type_traits>

#include "NvInferRuntime.h"
#include "tensorrt/library.h"

namespace patch {

class RtxLogger : public nvinfer1::IVersionedInterface {
 public:
  virtual void log(nvinfer1::ILogger::Severity severity, const char* message) noexcept = 0;
};

class RtxRegistry {
 public:
  virtual ~RtxRegistry() = default;
  virtual void setErrorRecorder(nvinfer1::IErrorRecorder* recorder) noexcept = 0;
  virtual nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept = 0;
  virtual bool isParentSearchEnabled() const = 0;
  virtual void setParentSearchEnabled(bool enabled) = 0;
  virtual void* loadLibrary(const char* path) noexcept = 0;
  virtual void deregisterLibrary(void* handle) noexcept = 0;
  virtual bool registerCreator(nvinfer1::IPluginCreatorInterface& creator,
                               const char* name_space) noexcept = 0;
  virtual nvinfer1::IPluginCreatorInterface* const* getAllCreators(int32_t* count) const noexcept = 0;
  virtual nvinfer1::IPluginCreatorInterface* getCreator(const char* name, const char* version,
                                                        const char* name_space) noexcept = 0;
  virtual bool deregisterCreator(const nvinfer1::IPluginCreatorInterface& creator) noexcept = 0;
};

using Logger = std::conditional_t<kRtx, RtxLogger, nvinfer1::ILogger>;
using Registry = std::conditional_t<kRtx, RtxRegistry, nvinfer1::IPluginRegistry>;

// Return the logger and the registry of the loaded TensorRT.  Null if none is loaded, or if its version has
// unknown tables.
Logger* loaded_logger() noexcept;
Registry* loaded_registry() noexcept;

}  // namespace patch
