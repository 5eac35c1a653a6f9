// The engine of a decoder that patch-compile built.
#pragma once
#include <NvInferRuntime.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

namespace patch_runner {

enum Profile { kPrefill = 0, kDecode = 1 };  // optimisation profiles, by number

// Key or value of one layer.  `past` is an input; `present` is the output, with the new tokens appended.
struct CacheTensor {
  std::string past, present;
  int64_t heads, head_dim;
  nvinfer1::DataType type;
};

inline nvinfer1::Dims dims(std::initializer_list<int64_t> sizes) {
  nvinfer1::Dims out{};
  out.nbDims = static_cast<int32_t>(sizes.size());
  std::copy(sizes.begin(), sizes.end(), out.d);
  return out;
}
std::string spelled(const nvinfer1::Dims& shape);
size_t bytes_of(nvinfer1::DataType type);
void require(bool succeeded, const std::string& call);  // throws unless a call of TensorRT succeeded

class Engine {
 public:
  // plugin: a library to load first, or empty.  Throws a std::runtime_error, also if this is no such decoder.
  Engine(const std::string& path, const std::string& plugin);

  nvinfer1::ICudaEngine* operator->() const { return engine_.get(); }
  const std::vector<CacheTensor>& cache() const { return cache_; }
  int64_t vocabulary() const { return engine_->getTensorShape("logits").d[2]; }

  // Calls visit(name, shape) for each input of a step: `sequence` new tokens of each row after `past` tokens.
  template <class Visit>
  void each_input(int64_t batch, int64_t sequence, int64_t past, Visit visit) const {
    visit("input_ids", dims({batch, sequence}));
    visit("position_ids", dims({batch, sequence}));
    visit("attention_mask", dims({batch, past + sequence}));
    for (const CacheTensor& tensor : cache_)
      visit(tensor.past.c_str(), dims({batch, tensor.heads, past, tensor.head_dim}));
  }
  // Throws unless the profile takes such a step.
  void check_step(Profile profile, int64_t batch, int64_t sequence, int64_t past) const;

 private:
  class Log : public nvinfer1::ILogger {
    void log(Severity severity, const char* message) noexcept override;
  };
  void describe();

  Log log_;  // outlives the runtime, which outlives the engine
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::vector<CacheTensor> cache_;  // key and value of layer 0, of layer 1, …
};

}  // namespace patch_runner
