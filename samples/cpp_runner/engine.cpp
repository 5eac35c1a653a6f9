#include "engine.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <stdexcept>

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
    const std::string why = file >= 0 && status.st_size == 0 ? "it is empty" : std::strerror(errno);
    if (file >= 0) close(file);
    if (data_ == MAP_FAILED) throw std::runtime_error("the engine " + path + " can't be read: " + why);
  }
  ~MappedFile() { munmap(data_, size_); }
  MappedFile(const MappedFile&) = delete;

  const void* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  void* data_ = MAP_FAILED;
  size_t size_ = 0;
};

// Another major version has other virtual function tables, and calling through them would crash.
void check_version() {
  const int32_t library = getInferLibVersion() / 10000;
  if (library != NV_TENSORRT_MAJOR)
    throw std::runtime_error("this program is built for version " + std::to_string(NV_TENSORRT_MAJOR) +
                             " of TensorRT, and the library is version " + std::to_string(library));
}

void load_plugin(nvinfer1::IRuntime* runtime, const std::string& path) {
  if (!std::filesystem::exists(path)) throw std::runtime_error("the plugin " + path + " does not exist");
  // An absolute path: the loader looks for a name without a slash in the system's folders only.
  const std::string absolute = std::filesystem::absolute(path).string();
  require(runtime->getPluginRegistry().loadLibrary(absolute.c_str()), "loading the plugin " + path);
}

}  // namespace

std::string spelled(const Dims& shape) {
  std::string out;
  for (int32_t i = 0; i < shape.nbDims; ++i) out += (i ? ", " : "") + std::to_string(shape.d[i]);
  return "[" + out + "]";
}

size_t bytes_of(DataType type) { return type == DataType::kINT64 ? 8 : type == DataType::kFLOAT ? 4 : 2; }

void require(bool succeeded, const std::string& call) {
  if (!succeeded) throw std::runtime_error(call + " failed; TensorRT says why above");
}

void Engine::Log::log(Severity severity, const char* message) noexcept {
  if (severity <= Severity::kWARNING) std::fprintf(stderr, "TensorRT: %s\n", message);
}

Engine::Engine(const std::string& path, const std::string& plugin) {
  check_version();
  const MappedFile file(path);
  runtime_.reset(nvinfer1::createInferRuntime(log_));
  require(runtime_ != nullptr, "createInferRuntime");
  if (!plugin.empty()) load_plugin(runtime_.get(), plugin);
  runtime_->setEngineHostCodeAllowed(plugin.empty());  // a plugin in the engine is host code
  engine_.reset(runtime_->deserializeCudaEngine(file.data(), file.size()));
  require(engine_ != nullptr,
          "loading the engine " + path +
              // TensorRT-RTX 1.7.1 logs "plugin creator of PatchLinear exists already"
              (plugin.empty() ? " (if it contains no plugin, give --plugin libpatch_linear.so)"
                              : " (if it contains the plugin, leave out --plugin)"));
  describe();
}

// Finds the cache's tensors, and throws with a list of all that is not as in a decoder of patch-compile.
void Engine::describe() {
  std::map<std::string, bool> unknown;  // names → true for an input
  for (int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
    const char* name = engine_->getIOTensorName(i);
    unknown[name] = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
  }
  std::string problems;
  const auto expect = [&](const std::string& name, bool is_input, int32_t rank,
                          std::initializer_list<DataType> types) {
    const std::string what = (is_input ? "\n  input " : "\n  output ") + name;
    const auto found = unknown.find(name);
    if (found == unknown.end() || found->second != is_input) {
      problems += what + " is missing";
      return;
    }
    unknown.erase(found);
    const DataType type = engine_->getTensorDataType(name.c_str());
    if (engine_->getTensorShape(name.c_str()).nbDims != rank) problems += what + " has another rank";
    if (std::find(types.begin(), types.end(), type) == types.end()) problems += what + " has another type";
  };
  for (const char* name : {"input_ids", "position_ids", "attention_mask"})
    expect(name, true, 2, {DataType::kINT64});
  expect("logits", false, 3, {DataType::kHALF, DataType::kBF16, DataType::kFLOAT});
  for (int layer = 0; layer == 0 || unknown.count("past_key_values." + std::to_string(layer) + ".key");
       ++layer)
    for (const std::string& part : {std::to_string(layer) + ".key", std::to_string(layer) + ".value"}) {
      const std::string past = "past_key_values." + part, present = "present." + part;
      expect(past, true, 4, {DataType::kHALF, DataType::kBF16});
      expect(present, false, 4, {engine_->getTensorDataType(past.c_str())});
      const Dims shape = engine_->getTensorShape(past.c_str());
      cache_.push_back({past, present, shape.d[1], shape.d[3], engine_->getTensorDataType(past.c_str())});
    }
  for (const auto& [name, is_input] : unknown)
    problems += (is_input ? "\n  input " : "\n  output ") + name + " is not known";
  if (engine_->getNbOptimizationProfiles() < 2) problems += "\n  it has no profile for decode steps";
  if (!problems.empty())
    throw std::runtime_error("the engine is not a decoder as patch-compile builds it:" + problems);
}

void Engine::check_step(Profile profile, int64_t batch, int64_t sequence, int64_t past) const {
  each_input(batch, sequence, past, [&](const char* name, const Dims& shape) {
    const Dims min = engine_->getProfileShape(name, profile, OptProfileSelector::kMIN);
    const Dims max = engine_->getProfileShape(name, profile, OptProfileSelector::kMAX);
    for (int32_t i = 0; i < shape.nbDims; ++i)
      if (shape.d[i] < min.d[i] || shape.d[i] > max.d[i])
        throw std::runtime_error(std::string(name) + " would be " + spelled(shape) + ", and profile " +
                                 std::to_string(profile) + " (" + (profile ? "decode" : "prefill") +
                                 ") of the engine takes " + spelled(min) + " to " + spelled(max));
  });
}

}  // namespace patch_runner
