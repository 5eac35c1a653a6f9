// The TensorRT functions that the runner calls, on the CPU.  They check shapes, addresses and memory, and
// compute a decoder.  An engine is a text: sizes and changes of that decoder.
#include <NvInferRuntime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <sstream>
#include <vector>

#include "stand_in.h"

namespace {

using namespace nvinfer1;
using namespace stand_in;
using Sizes = std::vector<int64_t>;

struct Tensor {
  DataType type;
  bool is_input;
  Sizes dims;                             // -1: dynamic
  std::vector<Sizes> min = {}, max = {};  // shapes, by profile
};

// The decoder: its next token depends on the ids, positions and order of all tokens that a row can see.
struct Model {
  std::map<std::string, int64_t> sizes;
  std::vector<std::string> names;
  std::map<std::string, Tensor> tensors;
  bool embedded = true;  // the engine contains the plugin
} model;
ILogger* logger;
bool host_code_allowed = false, plugin_loaded = false;
int profile = 0, runs[2];
std::map<std::string, Sizes> shapes;
std::map<std::string, void*> addresses;

bool complain(const std::string& message) {
  logger->log(ILogger::Severity::kERROR, message.c_str());
  return false;
}
DataType type_of(const std::string& name) {
  return name == "int64"      ? DataType::kINT64
         : name == "half"     ? DataType::kHALF
         : name == "bfloat16" ? DataType::kBF16
         : name == "float"    ? DataType::kFLOAT
                              : DataType::kINT32;
}
size_t bytes_of(DataType type) { return type == DataType::kINT64 ? 8 : type == DataType::kFLOAT ? 4 : 2; }
size_t bytes_of(const std::string& name) {
  size_t out = bytes_of(model.tensors[name].type);
  for (const int64_t size : shapes[name]) out *= size;
  return out;
}
Dims dims_of(const Sizes& sizes) {
  Dims dims{};
  dims.nbDims = static_cast<int32_t>(sizes.size());
  std::copy(sizes.begin(), sizes.end(), dims.d);
  return dims;
}

void add(const std::string& name, Tensor tensor) {
  model.names.push_back(name);
  model.tensors[name] = std::move(tensor);
}

// Reads lines such as "layers 2", "type half" and "drop NAME".  Returns false if the text is no engine.
bool read_engine(const std::string& text) {
  std::istringstream lines(text);
  std::string line, cache = "half", logits = "half";
  if (!std::getline(lines, line) || line != "stand-in engine") return false;
  model = {{{"layers", 2},
            {"heads", 2},
            {"head_dim", 4},
            {"vocab", 61},
            {"batch", 2},
            {"past", 16},
            {"prompt", 8},
            {"profiles", 2},
            {"last", 0}},
           {},
           {},
           true};
  std::vector<std::string> changes;
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    std::string name, value;
    words >> name >> value;
    if (name == "type")
      cache = value;
    else if (name == "logits")
      logits = value;
    else if (name == "plugin")
      model.embedded = value == "embedded";
    else if (model.sizes.count(name))
      model.sizes[name] = std::stoll(value);
    else
      changes.push_back(line);
  }
  const auto& s = model.sizes;
  const int64_t batch = s.at("batch"), prompt = s.at("prompt"), most = s.at("past");
  const int64_t heads = s.at("heads"), dim = s.at("head_dim");
  const Tensor ids{DataType::kINT64, true, {-1, -1}, {{1, 1}, {1, 1}}, {{batch, prompt}, {batch, 1}}};
  add("input_ids", ids), add("position_ids", ids);
  add("attention_mask",
      {DataType::kINT64, true, {-1, -1}, {{1, 1}, {1, 2}}, {{batch, prompt}, {batch, most + 1}}});
  add("logits", {type_of(logits), false, {-1, s.at("last") ? 1 : -1, s.at("vocab")}});
  for (int64_t layer = 0; layer < s.at("layers"); ++layer)
    for (const char* part : {".key", ".value"}) {
      const std::string suffix = std::to_string(layer) + part;
      add("past_key_values." + suffix, {type_of(cache),
                                        true,
                                        {-1, heads, -1, dim},
                                        {{1, heads, 0, dim}, {1, heads, 1, dim}},
                                        {{batch, heads, 0, dim}, {batch, heads, most, dim}}});
      add("present." + suffix, {type_of(cache), false, {-1, heads, -1, dim}});
    }
  for (const std::string& change : changes) {
    std::istringstream words(change);
    std::string word, name, value;
    words >> word >> name >> value;
    if (word == "add") add(name, ids);
    if (word == "retype") model.tensors[name].type = type_of(value);
    if (word == "rerank") model.tensors[name].dims.resize(std::stoull(value), -1);
    if (word == "widen") model.tensors[name].dims[1] = std::stoll(value);
    if (word == "drop") model.names.erase(std::find(model.names.begin(), model.names.end(), name));
  }
  return true;
}

// Values are small integers, which fp16 and bf16 hold exactly.
int64_t read(const std::string& name, int64_t i) {
  const void* values = addresses[name];
  if (model.tensors[name].type == DataType::kHALF) {
    const auto value = static_cast<float>(static_cast<const _Float16*>(values)[i]);
    return std::isfinite(value) ? static_cast<int64_t>(value) : 99991;  // NaN: memory that was never written
  }
  const uint32_t wide = static_cast<uint32_t>(static_cast<const uint16_t*>(values)[i]) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return std::isfinite(value) ? static_cast<int64_t>(value) : 99991;
}
void write(const std::string& name, int64_t i, float value) {
  void* values = addresses[name];
  const DataType type = model.tensors[name].type;
  if (type == DataType::kFLOAT) {
    static_cast<float*>(values)[i] = value;
  } else if (type == DataType::kHALF) {
    static_cast<_Float16*>(values)[i] = static_cast<_Float16>(value);
  } else {
    uint32_t wide;
    std::memcpy(&wide, &value, 4);
    static_cast<uint16_t*>(values)[i] = static_cast<uint16_t>(wide >> 16);
  }
}

// present = past, followed by the new tokens: keys are made from their ids, values from their positions.
void append(int64_t layer, const std::string& part, bool key) {
  const Sizes past = shapes["past_key_values." + part];
  const int64_t old = past[2], total = old + shapes["input_ids"][1], dim = past[3];
  const auto* tokens = static_cast<const int64_t*>(addresses[key ? "input_ids" : "position_ids"]);
  for (int64_t b = 0; b < past[0]; ++b)
    for (int64_t h = 0; h < past[1]; ++h)
      for (int64_t slot = 0; slot < total; ++slot)
        for (int64_t d = 0; d < dim; ++d) {
          const int64_t plane = b * past[1] + h;
          const int64_t value =
              slot < old ? read("past_key_values." + part, (plane * old + slot) * dim + d)
                         : (tokens[b * (total - old) + slot - old] + 3 * layer + 5 * h + 7 * d) % 128;
          write("present." + part, (plane * total + slot) * dim + d, static_cast<float>(value));
        }
}

int64_t next_token(int64_t row, int64_t query) {
  const Sizes past = shapes["past_key_values.0.key"];
  const int64_t total = past[2] + shapes["input_ids"][1];
  const auto* mask = static_cast<const int64_t*>(addresses["attention_mask"]);
  int64_t hash = 7;
  for (int64_t slot = 0; slot <= query; ++slot) {
    if (slot < query && mask[row * total + slot] != 1) continue;
    for (int64_t layer = 0; layer < model.sizes["layers"]; ++layer)
      for (const char* part : {".key", ".value"})
        for (int64_t h = 0; h < past[1]; ++h)
          for (int64_t d = 0; d < past[3]; ++d)
            hash = (hash * 31 + read("present." + std::to_string(layer) + part,
                                     ((row * past[1] + h) * total + slot) * past[3] + d)) %
                   1000003;
  }
  return hash % model.sizes["vocab"];
}

void compute() {
  for (int64_t layer = 0; layer < model.sizes["layers"]; ++layer)
    for (const bool key : {true, false})
      append(layer, std::to_string(layer) + (key ? ".key" : ".value"), key);
  const int64_t total = shapes["attention_mask"][1], positions = shapes["logits"][1],
                vocab = model.sizes["vocab"];
  for (int64_t row = 0; row < shapes["logits"][0]; ++row)
    for (int64_t p = 0; p < positions; ++p) {
      const int64_t next = next_token(row, total - positions + p);
      for (int64_t v = 0; v < vocab; ++v)
        write("logits", (row * positions + p) * vocab + v, static_cast<float>(v == next ? 8 : v * 5 % 7));
    }
  const bool first = ++runs[profile] == 1;  // in each profile, as slow as in a real engine
  advance_clock(static_cast<float>(total) + (first ? 100 : 0));
}

// ---- TensorRT's interfaces

Sizes output_shape(const std::string& name) {
  Sizes out = model.tensors[name].dims;
  if (!shapes.count("input_ids") || !shapes.count("past_key_values.0.key")) return out;
  out[0] = shapes["input_ids"][0];
  if (name != "logits")
    out[2] = shapes["past_key_values.0.key"][2] + shapes["input_ids"][1];
  else if (out[1] < 0)
    out[1] = shapes["input_ids"][1];
  return out;
}

bool set_shape(apiv::VExecutionContext*, const char* name, const Dims& dims) {
  const Tensor& tensor = model.tensors[name];
  const Sizes asked(dims.d, dims.d + dims.nbDims);
  if (fails("setInputShape") || asked.size() != tensor.dims.size()) return complain("no such shape");
  for (size_t i = 0; i < asked.size(); ++i)
    if (asked[i] < tensor.min[profile][i] || asked[i] > tensor.max[profile][i])
      return complain(std::string(name) + ": outside the profile");
  shapes[name] = asked;
  return true;
}

bool enqueue_step(apiv::VExecutionContext*, cudaStream_t) {
  if (fails("enqueueV3")) return complain("told to fail");
  for (const std::string& name : model.names) {
    if (!model.tensors[name].is_input) shapes[name] = output_shape(name);
    const auto* begin = static_cast<const char*>(addresses[name]);
    if (reinterpret_cast<uintptr_t>(begin) % 256 || !covered(begin, bytes_of(name)))
      return complain(name + ": too little memory, or not aligned to 256 bytes");
  }
  for (const std::string& a : model.names)
    for (const std::string& b : model.names) {
      const auto *out = static_cast<const char*>(addresses[a]),
                 *other = static_cast<const char*>(addresses[b]);
      if (a != b && !model.tensors[a].is_input && out < other + bytes_of(b) && other < out + bytes_of(a))
        return complain(a + " is written where " + b + " lies");
    }
  enqueue(compute);
  return true;
}

class Context : public IExecutionContext {
 public:
  Context() {
    using V = apiv::VExecutionContext;
    table_.set(&V::setOptimizationProfileAsync, [](V*, int32_t index, cudaStream_t) {
      profile = index;
      shapes.clear();
      return !fails("setOptimizationProfileAsync") || complain("no such profile");
    });
    table_.set(&V::setInputShape, set_shape);
    table_.set(&V::getTensorShape, [](V*, const char* name) { return dims_of(output_shape(name)); });
    table_.set(&V::setTensorAddress, [](V*, const char* name, void* address) {
      addresses[name] = address;
      return !fails("setTensorAddress") || complain("no such address");
    });
    table_.set(&V::enqueueV3, enqueue_step);
    mImpl = table_.get();
  }

 private:
  Partial<apiv::VExecutionContext> table_;
};

class FakeEngine : public ICudaEngine {
 public:
  FakeEngine() {
    using V = apiv::VCudaEngine;
    table_.set(&V::getNbIOTensors, [](V*) { return static_cast<int32_t>(model.names.size()); });
    table_.set(&V::getIOTensorName, [](V*, int32_t i) { return model.names[i].c_str(); });
    table_.set(&V::getTensorIOMode, [](V*, const char* name) {
      return model.tensors[name].is_input ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
    });
    table_.set(&V::getTensorDataType, [](V*, const char* name) { return model.tensors[name].type; });
    table_.set(&V::getTensorShape, [](V*, const char* name) { return dims_of(model.tensors[name].dims); });
    table_.set(&V::getNbOptimizationProfiles,
               [](V*) { return static_cast<int32_t>(model.sizes["profiles"]); });
    table_.set(&V::getProfileShape, [](V*, const char* name, int32_t index, OptProfileSelector select) {
      const Tensor& tensor = model.tensors[name];
      return dims_of(select == OptProfileSelector::kMIN ? tensor.min[index] : tensor.max[index]);
    });
    table_.set(&V::createExecutionContext, [](V*, ExecutionContextAllocationStrategy) -> IExecutionContext* {
      return fails("createExecutionContext") ? nullptr : new Context;
    });
    mImpl = table_.get();
  }

 private:
  Partial<apiv::VCudaEngine> table_;
};

void* load_library(IPluginRegistry*, const char* path) {
  std::FILE* file = std::fopen(path, "rb");
  char magic[4] = {};
  plugin_loaded =
      path[0] == '/' && file && std::fread(magic, 1, 4, file) == 4 && !std::memcmp(magic + 1, "ELF", 3);
  if (file) std::fclose(file);
  if (!plugin_loaded) complain("not a library");
  return plugin_loaded ? &plugin_loaded : nullptr;
}

ICudaEngine* deserialize(apiv::VRuntime*, const void* data, size_t size) {
  if (!read_engine(std::string(static_cast<const char*>(data), size)))
    return complain("bad magic number"), nullptr;
  // TensorRT-RTX 1.7.1 does this; full TensorRT may keep the first creator.
  if (model.embedded && plugin_loaded)
    return complain("plugin creator of PatchLinear exists already"), nullptr;
  if (model.embedded && !host_code_allowed) return complain("host code is not allowed"), nullptr;
  if (!model.embedded && !plugin_loaded) return complain("no creator of PatchLinear, version 2"), nullptr;
  return new FakeEngine;
}

class Runtime : public IRuntime {
 public:
  Runtime() {
    using V = apiv::VRuntime;
    static Partial<IPluginRegistry> registry;
    registry.set(&IPluginRegistry::loadLibrary, load_library);
    table_.set<ICudaEngine*, const void*, size_t>(&V::deserializeCudaEngine, deserialize);
    table_.set(&V::setEngineHostCodeAllowed, [](V*, bool allowed) { host_code_allowed = allowed; });
    table_.set(&V::getPluginRegistry, [](V*) -> IPluginRegistry& { return *registry.get(); });
    mImpl = table_.get();
  }

 private:
  Partial<apiv::VRuntime> table_;
};

}  // namespace

extern "C" {

int32_t getInferLibVersion() noexcept {
  const char* version = std::getenv("STAND_IN_VERSION");
  return version ? std::atoi(version) : NV_TENSORRT_VERSION;
}

void* createInferRuntime_INTERNAL(void* log, int32_t) noexcept {
  logger = static_cast<ILogger*>(log);
  return fails("createInferRuntime") ? nullptr : static_cast<IRuntime*>(new Runtime);
}

}  // extern "C"
