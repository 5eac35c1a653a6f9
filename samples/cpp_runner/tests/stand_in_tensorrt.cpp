// The TensorRT functions that the runner calls, on the CPU.  They check names, shapes and addresses against
// TensorRT's documentation, and compute the decoder of stand_in_decoder.cpp.
#include <NvInferRuntime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "partial.h"
#include "stand_in.h"

namespace {

using namespace nvinfer1;
using namespace stand_in;
using Sizes = std::vector<int64_t>;

ILogger* logger;
Model model;
bool host_code_allowed = false, plugin_loaded = false;

bool complain(const std::string& message) {
  logger->log(ILogger::Severity::kERROR, message.c_str());
  return false;
}

Dims dims_of(const Sizes& sizes) {
  Dims dims{};
  dims.nbDims = static_cast<int32_t>(sizes.size());
  std::copy(sizes.begin(), sizes.end(), dims.d);
  return dims;
}

DataType type_of(const std::string& name) {
  if (name == "int64") return DataType::kINT64;
  if (name == "half") return DataType::kHALF;
  if (name == "bfloat16") return DataType::kBF16;
  return name == "float" ? DataType::kFLOAT : DataType::kINT32;
}

// ---- IExecutionContext

int profile = 0;
int runs[8];  // number of runs, by profile
Shapes shapes;
Addresses addresses;
int64_t allocations_before = -1;  // number at the last step of the decode profile

bool set_profile(apiv::VExecutionContext*, int32_t index, cudaStream_t) {
  const Inside in;
  if (fails("setOptimizationProfileAsync") || index < 0 || index >= model.sizes["profiles"])
    return complain("no such profile");
  profile = index;
  shapes.clear();
  allocations_before = -1;
  return true;
}

bool set_shape(apiv::VExecutionContext*, const char* name, const Dims& dims) {
  const Inside in;
  const Tensor* tensor = model.find(name);
  if (fails("setInputShape") || !tensor || !tensor->is_input) return complain("no such input");
  const Sizes asked(dims.d, dims.d + dims.nbDims);
  if (asked.size() != tensor->dims.size()) return complain(std::string(name) + ": wrong rank");
  for (size_t i = 0; i < asked.size(); ++i)
    if (asked[i] < tensor->min[profile][i] || asked[i] > tensor->max[profile][i])
      return complain(std::string(name) + ": outside the profile");
  shapes[name] = asked;
  return true;
}

// Returns an output's shape, with -1 for dimensions that depend on an input whose shape is not set.
Sizes output_shape(const Tensor& tensor) {
  Sizes out = tensor.dims;
  const auto ids = shapes.find("input_ids"), past = shapes.find("past_key_values.0.key");
  if (ids == shapes.end() || past == shapes.end()) return out;
  out[0] = ids->second[0];
  if (tensor.name == "logits") {
    if (out[1] < 0) out[1] = ids->second[1];
  } else {
    out[2] = past->second[2] + ids->second[1];
  }
  return out;
}

Dims tensor_shape(apiv::VExecutionContext*, const char* name) {
  const Inside in;
  const Tensor* tensor = model.find(name);
  if (!tensor) return Dims{-1, {}};
  if (!tensor->is_input) return dims_of(output_shape(*tensor));
  return dims_of(shapes.count(name) ? shapes[name] : tensor->dims);
}

bool set_address(apiv::VExecutionContext*, const char* name, void* address) {
  const Inside in;
  if (fails("setTensorAddress") || !model.find(name)) return complain("no such tensor");
  addresses[name] = address;
  return true;
}

size_t bytes(const Tensor& tensor, const Sizes& shape) {
  size_t out = bytes_of(tensor.type);
  for (const int64_t size : shape) out *= size;
  return out;
}

bool check_memory(const Tensor& tensor) {
  const auto* address = static_cast<const char*>(addresses[tensor.name]);
  if (!address) return complain(tensor.name + ": no address");
  if (reinterpret_cast<uintptr_t>(address) % 256) return complain(tensor.name + ": not aligned to 256 bytes");
  if (!on_device(address, bytes(tensor, shapes[tensor.name])))
    return complain(tensor.name + ": too little memory");
  return true;
}

bool check_overlaps() {
  for (const Tensor& a : model.tensors)
    for (const Tensor& b : model.tensors) {
      if (a.is_input || &a == &b) continue;
      const auto *begin_a = static_cast<const char*>(addresses[a.name]),
                 *begin_b = static_cast<const char*>(addresses[b.name]);
      if (begin_a < begin_b + bytes(b, shapes[b.name]) && begin_b < begin_a + bytes(a, shapes[a.name]))
        return complain(a.name + " is written where " + b.name + " lies");
    }
  return true;
}

bool check_sizes() {
  const Sizes& ids = shapes["input_ids"];
  const Sizes& past = shapes["past_key_values.0.key"];
  if (shapes["position_ids"] != ids) return complain("position_ids: not the shape of input_ids");
  if (shapes["attention_mask"] != Sizes{ids[0], past[2] + ids[1]})
    return complain("attention_mask: wrong size");
  for (const Tensor& tensor : model.tensors)
    if (tensor.is_input && tensor.name.rfind("past", 0) == 0 && shapes[tensor.name] != past)
      return complain(tensor.name + ": not the shape of the others");
  return past[0] == ids[0] || complain("the cache has another batch");
}

bool enqueue_step(apiv::VExecutionContext*, cudaStream_t stream) {
  const Inside in;
  if (fails("enqueueV3")) return complain("told to fail");
  for (const Tensor& tensor : model.tensors) {
    if (tensor.is_input && !shapes.count(tensor.name)) return complain(tensor.name + ": no shape is set");
    if (!tensor.is_input) shapes[tensor.name] = output_shape(tensor);
  }
  if (!check_sizes()) return false;
  for (const Tensor& tensor : model.tensors)
    if (!check_memory(tensor)) return false;
  if (!check_overlaps()) return false;
  if (profile == 1) {
    if (allocations_before >= 0 && allocations() != allocations_before)
      return complain("memory was allocated between two steps");
    allocations_before = allocations();
  }
  // The first run in each profile is slow, as in a real engine.
  const float first = ++runs[profile] == 1 ? 100 : 0;
  enqueue(stream, [shapes = shapes, addresses = addresses, first] {
    run(model, shapes, addresses);
    advance_clock(first + static_cast<float>(shapes.at("attention_mask")[1]));
  });
  return true;
}

class Context : public IExecutionContext {
 public:
  Context() {
    table_.set(&apiv::VExecutionContext::setOptimizationProfileAsync, set_profile);
    table_.set(&apiv::VExecutionContext::setInputShape, set_shape);
    table_.set(&apiv::VExecutionContext::getTensorShape, tensor_shape);
    table_.set(&apiv::VExecutionContext::setTensorAddress, set_address);
    table_.set(&apiv::VExecutionContext::enqueueV3, enqueue_step);
    mImpl = table_.get();
  }

 private:
  Partial<apiv::VExecutionContext> table_;
};

// ---- ICudaEngine

using VEngine = apiv::VCudaEngine;

Dims profile_shape(VEngine*, const char* name, int32_t index, OptProfileSelector select) {
  const Tensor* tensor = model.find(name);
  if (!tensor || !tensor->is_input || index < 0 || index >= model.sizes["profiles"]) return Dims{-1, {}};
  return dims_of(select == OptProfileSelector::kMIN ? tensor->min[index] : tensor->max[index]);
}

class FakeEngine : public ICudaEngine {
 public:
  FakeEngine() {
    table_.set(&VEngine::getNbIOTensors,
               [](VEngine*) -> int32_t { return static_cast<int32_t>(model.tensors.size()); });
    table_.set(&VEngine::getIOTensorName, [](VEngine*, int32_t i) { return model.tensors[i].name.c_str(); });
    table_.set(&VEngine::getTensorIOMode, [](VEngine*, const char* name) {
      return model.find(name)->is_input ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
    });
    table_.set(&VEngine::getTensorDataType,
               [](VEngine*, const char* name) { return type_of(model.find(name)->type); });
    table_.set(&VEngine::getTensorShape,
               [](VEngine*, const char* name) { return dims_of(model.find(name)->dims); });
    table_.set(&VEngine::getNbOptimizationProfiles,
               [](VEngine*) { return static_cast<int32_t>(model.sizes["profiles"]); });
    table_.set(&VEngine::getProfileShape, profile_shape);
    table_.set(&VEngine::createExecutionContext,
               [](VEngine*, ExecutionContextAllocationStrategy) -> IExecutionContext* {
                 const Inside in;
                 return fails("createExecutionContext") ? nullptr : new Context;
               });
    mImpl = table_.get();
  }

 private:
  Partial<VEngine> table_;
};

// ---- IRuntime and its registry

void* load_library(IPluginRegistry*, const char* path) {
  std::FILE* file = std::fopen(path, "rb");
  char magic[4] = {};
  const bool is_library = file && std::fread(magic, 1, 4, file) == 4 &&
                          !std::memcmp(magic,
                                       "\x7f"
                                       "ELF",
                                       4);
  if (file) std::fclose(file);
  if (path[0] != '/' || !is_library) return complain("not a library"), nullptr;
  plugin_loaded = true;
  return &plugin_loaded;
}

ICudaEngine* deserialize(apiv::VRuntime*, const void* data, size_t size) {
  const Inside in;
  if (!model.read(std::string(static_cast<const char*>(data), size)))
    return complain("bad magic number"), nullptr;
  // TensorRT-RTX 1.7.1 does this; full TensorRT may keep the first creator.
  if (model.carries_plugin && plugin_loaded)
    return complain("plugin creator of PatchLinear exists already"), nullptr;
  if (model.carries_plugin && !host_code_allowed) return complain("host code is not allowed"), nullptr;
  if (!model.carries_plugin && !plugin_loaded)
    return complain("no creator of PatchLinear, version 2"), nullptr;
  return new FakeEngine;
}

class Runtime : public IRuntime {
 public:
  Runtime() {
    registry_.set(&IPluginRegistry::loadLibrary, load_library);
    table_.set<ICudaEngine*, const void*, size_t>(&apiv::VRuntime::deserializeCudaEngine, deserialize);
    table_.set(&apiv::VRuntime::setEngineHostCodeAllowed,
               [](apiv::VRuntime*, bool allowed) { host_code_allowed = allowed; });
    table_.set(&apiv::VRuntime::getPluginRegistry,
               [](apiv::VRuntime*) -> IPluginRegistry& { return *registry_.get(); });
    mImpl = table_.get();
  }

 private:
  static Partial<IPluginRegistry> registry_;
  Partial<apiv::VRuntime> table_;
};
Partial<IPluginRegistry> Runtime::registry_;

}  // namespace

extern "C" {

int32_t getInferLibVersion() noexcept {
  const char* version = std::getenv("STAND_IN_VERSION");
  return version ? std::atoi(version) : NV_TENSORRT_VERSION;
}

void* createInferRuntime_INTERNAL(void* log, int32_t) noexcept {
  const Inside in;
  if (fails("createInferRuntime")) return nullptr;
  logger = static_cast<ILogger*>(log);
  return static_cast<IRuntime*>(new Runtime);
}

}  // extern "C"
