// The kernels and the dense path as a plain shared library, for the benchmark: no TensorRT.
#include <memory>
#include <string>

#include "dense_path/dense_path.h"
#include "kernels/launch.h"

#pragma GCC visibility push(default)  // the rest of the library hides its names, as the plugin does
extern "C" {

// The configuration and parts for these sizes: `config` -1 lets the shape decide.
void patch_bench_schedule(const patch::Problem* problem, const patch::Device* device, int config,
                          int32_t* chosen) {
  const patch::Schedule s = patch::choose_schedule(*problem, *device, config);
  chosen[0] = s.config, chosen[1] = s.parts;
}
int patch_bench_max_parts(const patch::Problem* problem, const patch::Device* device, int config) {
  return patch::max_parts(*problem, patch::kConfigs[config], device->sms);
}
// The current device as the plugin sees it; null when it can be asked, else CUDA's words.
const char* patch_bench_device(patch::Device* device) {
  const cudaError_t error = patch::current_device(device);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
int64_t patch_bench_partial_bytes(int config, int parts) {
  return static_cast<int64_t>(patch::partial_bytes(patch::kConfigs[config], parts));
}
int64_t patch_bench_counter_bytes() { return patch::kCounterBytes; }
int patch_bench_config_count() { return patch::kConfigCount; }
const char* patch_bench_config_name(int config) { return patch::kConfigs[config].name; }
void patch_bench_config(int config, int32_t* out) {
  const patch::Config& c = patch::kConfigs[config];
  out[0] = c.panel_rows, out[1] = patch::shared_bytes(c), out[2] = c.tokens, out[3] = c.kinds,
  out[4] = static_cast<int32_t>(c.weights);
}

// The dense path of a problem, ready to run, or null; `why` says what is wrong.
void* patch_bench_dense_path(const patch::Problem* problem, int bias, int residual, int activation,
                             int scalar, const char** why) {
  static std::string wrong;
  auto made = std::make_unique<patch::DensePath>();
  wrong = made->prepare(*problem, {bias != 0, residual != 0, static_cast<patch::Activation>(activation)},
                        static_cast<patch::Scalar>(scalar));
  *why = wrong.c_str();
  return wrong.empty() ? made.release() : nullptr;
}
void patch_bench_dense_path_delete(void* made) {
  const std::unique_ptr<patch::DensePath> owned(static_cast<patch::DensePath*>(made));
}
int64_t patch_bench_dense_path_bytes(const patch::Problem* problem, int bias, int residual, int activation) {
  return static_cast<int64_t>(patch::dense_path_workspace(
      *problem, {bias != 0, residual != 0, static_cast<patch::Activation>(activation)}));
}
// Null when it went well, else what is wrong.
const char* patch_bench_dense_path_run(const void* made, const patch::LinearArguments* arguments,
                                       void* workspace, void* stream) {
  static std::string wrong;
  wrong = static_cast<const patch::DensePath*>(made)->run(*arguments, workspace,
                                                          static_cast<cudaStream_t>(stream));
  return wrong.empty() ? nullptr : wrong.c_str();
}

// The table of parts.  index: of the weight, in the host's memory.
void patch_bench_table(const patch::LinearArguments* arguments, const int32_t* index, int config, int parts,
                       patch::PartTable* table) {
  if (config < 0 || patch::kConfigs[config].kernel != patch::Kernel::kStream) return;
  patch::LinearArguments a = *arguments;
  a.parts = parts;
  patch::make_parts(table, a, index, patch::kConfigs[config]);
}
// Null when the launch went well, else CUDA's words.
const char* patch_bench_launch(const patch::LinearArguments* arguments, const patch::PartTable* table,
                               int scalar, int config, int parts, void* stream) {
  const cudaError_t error = patch::launch(*arguments, *table, static_cast<patch::Scalar>(scalar),
                                          {config, parts}, static_cast<cudaStream_t>(stream));
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // extern "C"
#pragma GCC visibility pop
