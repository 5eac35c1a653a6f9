// The interfaces of TensorRT that the plugin CALLS.  The interfaces that it implements are versioned and the
// same everywhere.  But the virtual function tables of these three differ:
//
//                    full TensorRT 10                  full TensorRT 11, and TensorRT-RTX since 1.7
//   ILogger          begins with `log`                 an IVersionedInterface: its functions before `log`
//   ILoggerFinder    begins with `findLogger`          an IVersionedInterface too
//   IPluginRegistry  has four functions for V2 plugins does not have them
//
// So this file declares them itself, and the version of the loaded library chooses: the headers that the
// plugin was compiled with may be another version's.  Seen in the headers of 10.14 and 11.0.0, and in the
// libraries of 10.16, 11.0 to 11.4 and RTX 1.7.1.
//
// The classes are not in an unnamed namespace: the compiler would see that no class derives from them, and
// would call the pure virtual functions directly.
#pragma once
#include "NvInferRuntime.h"
#include "tensorrt/library.h"

namespace patch {

using Severity = nvinfer1::ILogger::Severity;

// A registry whose table begins with that of Head.  The rest is the same in all versions.
template <class Head>
class RegistryAfter : public Head {
 public:
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

struct Tables10 {
  class Logger {
   public:
    virtual void log(Severity severity, const char* message) noexcept = 0;
    virtual ~Logger() = default;
  };

  class LoggerFinder {
   public:
    virtual Logger* findLogger() = 0;
    virtual ~LoggerFinder() = default;
  };

  class RegistryHead {
   public:
    virtual bool registerV2(void* creator, const char* name_space) noexcept = 0;
    virtual void* const* getAllV2(int32_t* count) const noexcept = 0;
    virtual void* getV2(const char* name, const char* version, const char* name_space) noexcept = 0;
    virtual ~RegistryHead() = default;
    virtual void setErrorRecorder(nvinfer1::IErrorRecorder* recorder) noexcept = 0;
    virtual nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept = 0;
    virtual bool deregisterV2(const void* creator) noexcept = 0;
  };
  using Registry = RegistryAfter<RegistryHead>;
};

struct Tables11 {
  class Logger : public nvinfer1::IVersionedInterface {
   public:
    virtual void log(Severity severity, const char* message) noexcept = 0;
  };

  class LoggerFinder : public nvinfer1::IVersionedInterface {
   public:
    virtual Logger* findLogger() = 0;
  };

  class RegistryHead {
   public:
    virtual ~RegistryHead() = default;
    virtual void setErrorRecorder(nvinfer1::IErrorRecorder* recorder) noexcept = 0;
    virtual nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept = 0;
  };
  using Registry = RegistryAfter<RegistryHead>;
};

enum class LoadedTables { kUnknown, k10, k11 };

// Returns the tables of the TensorRT that this process has loaded.  Unknown: none is loaded, or one of a
// version that nobody has looked at.
LoadedTables loaded_tables() noexcept;

// Calls `use` with a Tables10 or a Tables11, whose type names the tables, and returns its answer.  Returns
// false if the tables are unknown.
template <class Use>
bool with_tables(Use use) {
  switch (loaded_tables()) {
    case LoadedTables::k10:
      return use(Tables10{});
    case LoadedTables::k11:
      return use(Tables11{});
    case LoadedTables::kUnknown:
      break;
  }
  return false;
}

// Returns the object that an extern "C" function of the loaded TensorRT returns, which may be null.
template <class Object>
Object* loaded_object(const char* function) noexcept {
  const auto get = reinterpret_cast<Object* (*)() noexcept>(tensorrt_symbol(function));
  return get ? get() : nullptr;
}

}  // namespace patch
