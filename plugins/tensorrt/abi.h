// The interfaces of TensorRT that the plugin CALLS.  Those it implements are versioned and the same
// everywhere; but the tables of functions of the logger and the registry are not what every header says:
//
//                    full TensorRT 10                    TensorRT-RTX 1.7 (and what its bindings implement)
//   ILogger          log first                           an IVersionedInterface: two functions before it
//   IPluginRegistry  with four functions of V2 plugins   without them
//
// RTX plugins may be compiled with full TensorRT's headers, so RTX's two are spelled out here.  They are not
// in an unnamed namespace: there the compiler sees that nothing derives from them and calls the pure
// functions directly.
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

// The loaded TensorRT's, or null when none is loaded or it is of a version whose tables are not known.
Logger* loaded_logger() noexcept;
Registry* loaded_registry() noexcept;

}  // namespace patch
