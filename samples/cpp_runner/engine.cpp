#include "engine.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "errors.h"

namespace patch_runner {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::OptProfileSelector;

// Maps a file, so that the only copy in memory is TensorRT's.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status{};
    if (file >= 0 && fstat(file, &status) == 0 && status.st_size > 0) {
      size_ = static_cast<size_t>(status.st_size);
      data_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    }
    const std::string reason = file >= 0 && status.st_size == 0 ? "it is empty" : std::strerror(errno);
    if (file >= 0) close(file);
    if (data_ == MAP_FAILED) throw RunError("the engine " + path + " can't be read: " + reason);
  }
  ~MappedFile() { munmap(data_, size_); }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const void* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  void* data_ = MAP_FAILED;
  size_t size_ = 0;
};

// Another major version has other virtual function tables, and calling through them would crash.
void check_version() {
  const int32_t library = getInferLibVersion();
  if (library / 10000 == NV_TENSORRT_MAJOR) return;
  throw RunError("this program is built for version " + std::to_string(NV_TENSORRT_MAJOR) +
                 " of TensorRT, and the library is version " + std::to_string(library / 10000));
}

void load_plugin(nvinfer1::IRuntime* runtime, const std::string& path) {
  if (!std::filesystem::exists(path)) throw RunError("the plugin " + path + " does not exist");
  // An absolute path: the loader looks for a name without a slash in the system's folders only.
  const std::string absolute = std::filesystem::absolute(path).string();
  if (!runtime->getPluginRegistry().loadLibrary(absolute.c_str()))
    throw RunError("the plugin " + path + " can't be loaded; TensorRT says why above");
}

Element element_of(DataType type) {
  switch (type) {
    case DataType::kINT64:
      return Element::kInt64;
    case DataType::kHALF:
      return Element::kHalf;
    case DataType::kBF16:
      return Element::kBFloat16;
    case DataType::kFLOAT:
      return Element::kFloat;
    default:
      return Element::kOther;
  }
}

Shape shape_of(const Dims& dims) { return {dims.d, dims.d + std::max(dims.nbDims, 0)}; }

}  // namespace

void Log::log(Severity severity, const char* message) noexcept {
  if (severity <= Severity::kWARNING) std::fprintf(stderr, "TensorRT: %s\n", message);
}

Engine::Engine(const std::string& path, const std::string& plugin) {
  check_version();
  const MappedFile file(path);
  runtime_.reset(nvinfer1::createInferRuntime(log_));
  if (!runtime_) throw RunError("createInferRuntime failed; TensorRT says why above");
  if (!plugin.empty()) load_plugin(runtime_.get(), plugin);
  runtime_->setEngineHostCodeAllowed(plugin.empty());  // a plugin in the engine is host code
  engine_.reset(runtime_->deserializeCudaEngine(file.data(), file.size()));
  if (!engine_)
    throw RunError("the engine " + path + " can't be loaded; TensorRT says why above" +
                   // TensorRT-RTX 1.7.1 logs "plugin creator of PatchLinear exists already"
                   (plugin.empty() ? " (if it contains no plugin, give --plugin libpatch_linear.so)"
                                   : " (if it contains the plugin, leave out --plugin)"));
}

EngineDescription Engine::describe() const {
  EngineDescription description{{}, engine_->getNbOptimizationProfiles()};
  for (int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
    const char* name = engine_->getIOTensorName(i);
    const bool is_input = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
    Tensor tensor{name,
                  is_input,
                  element_of(engine_->getTensorDataType(name)),
                  shape_of(engine_->getTensorShape(name)),
                  {}};
    for (int profile = 0; is_input && profile < std::min(description.profiles, kPhases); ++profile)
      tensor.range[profile] = {shape_of(engine_->getProfileShape(name, profile, OptProfileSelector::kMIN)),
                               shape_of(engine_->getProfileShape(name, profile, OptProfileSelector::kMAX))};
    description.tensors.push_back(std::move(tensor));
  }
  return description;
}

}  // namespace patch_runner
