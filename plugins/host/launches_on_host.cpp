// Launches on a machine without a GPU, for the tests.  The kernels of the dense path run on fibers.  The
// other kernels, which take long to compile, are in a library with driver.cpp: a test names it, or their
// launches are only counted.
#include <exception>
#include <string>
#include <vector>

#include "dense_path/dense_path.h"
#include "host/call.h"
#include "host/cuda_on_host.h"
#include "kernels/activate_kernel.cuh"
#include "kernels/launch.h"
#include "kernels/quantise_kernel.cuh"
#include "kernels/unpack_bytes_kernel.cuh"
#include "kernels/unpack_integers_kernel.cuh"
#include "tensorrt/log.h"

namespace patch::host {
namespace {

Device device{};
bool lacks[2][kGroupCount];  // by type of X: groups of kernels that the library does not have
std::string messages;        // of the log
int launched[3];             // launches of the other kernels, of unpack and of activate
Schedule scheduled{-1, 1};   // of the last launch of the other kernels
RunCall run_call = nullptr;
CallError call_error = nullptr;

template <class Kernel>
cudaError_t run(const GlobalMemory& memory, const char* output, bool all_of_it, int64_t blocks, int threads,
                size_t shared, const Kernel& kernel) {
  static Machine machine;
  static uint64_t seed = 0;
  machine.global = memory;
  std::string error;
  try {
    error = machine.run({blocks, 0, threads, shared}, CopyMode::kLazy, ++seed, kernel);
  } catch (const std::exception& e) {
    error = e.what();
  }
  if (error.empty() && all_of_it) error = machine.global.complete(output);
  return error.empty() ? cudaSuccess : found(error);
}

// The tensors of a launch.
class KernelTensors {
 public:
  using Use = GlobalMemory::Use;

  void add(const char* name, const void* begin, size_t bytes, size_t unit, Use use = Use::kInput) {
    if (begin) tensors_.push_back({name, begin, bytes, unit, use});
  }
  void add_slabs(const Slabs* slabs) {
    for (int kind = 0; kind < kKindCount; ++kind) {
      const size_t count = slabs[kind].count;
      add("values", slabs[kind].values, count * slabs[kind].value_bytes, 2);
      add("extra", slabs[kind].extra, count * slabs[kind].extra_bytes, 4);
    }
  }
  // Memory that counts the accesses of one run.
  GlobalMemory memory() const {
    GlobalMemory made;
    for (const Tensor& t : tensors_) made.add(t.name, t.begin, t.bytes, t.unit, t.use);
    return made;
  }
  std::vector<Access> accesses() const {
    std::vector<Access> made;
    made.reserve(tensors_.size());
    for (const Tensor& t : tensors_) made.push_back({t.begin, t.bytes, t.use != Use::kInput});
    return made;
  }

 private:
  struct Tensor {
    const char* name;
    const void* begin;
    size_t bytes, unit;
    Use use;
  };
  std::vector<Tensor> tensors_;
};

int64_t index_words(const Slabs* slabs, int kinds, int64_t packed_panels) {
  int64_t words = kinds * (packed_panels + 1);
  for (int kind = 0; kind < kKindCount; ++kind) words += slabs[kind].count;
  return words;
}

Call call_of(const LinearArguments& a, Scalar scalar, const Config& c, int config) {
  static uint32_t seed = 0;
  Call call{};
  call.arguments = a;
  for (int kind = 0; kind < kKindCount; ++kind) {
    const Slabs& own = a.slabs[kind];
    call.slab_values[kind] = int64_t{own.count} * own.value_bytes / 2;
    call.slab_words[kind] = int64_t{own.count} * own.extra_bytes / 4;
  }
  call.index_words = index_words(a.slabs, c.kinds, a.panels);
  call.partial_values = static_cast<int64_t>(partial_bytes(c, a.parts) / sizeof(float));
  call.counter_words = a.parts;
  call.scalar = static_cast<int32_t>(scalar), call.config = config;
  call.copy_mode = static_cast<int32_t>(CopyMode::kMixed), call.seed = ++seed;
  return call;
}

std::vector<Access> accesses_of(const Call& call, const Config& c) {
  using Use = GlobalMemory::Use;
  const LinearArguments& a = call.arguments;
  const size_t tokens = a.tokens, out = a.out_features;
  KernelTensors t;
  t.add_slabs(a.slabs);
  t.add("X", a.x, tokens * a.in_features * 2, 2);
  t.add("index", a.index, call.index_words * 4, 4);
  t.add("scales", a.scales, size_t{4} * a.panels * c.panel_rows, 4);
  t.add("bias", a.bias, out * 2 << a.gated, 2);
  t.add("residual", a.residual, tokens * out * 2, 2);
  t.add("Y", a.y, tokens * out * 2, 2, Use::kOutput);
  if (c.weights == Weights::kW8A8) {
    t.add("rounded X", a.rounded, tokens * padded_columns(a.in_features), 1, Use::kWorkspace);
    t.add("token scales", a.token_scales, tokens * 4, 4, Use::kWorkspace);
  }
  if (a.parts > 1) {
    t.add("partials", a.partials, call.partial_values * 4, 4, Use::kExchange);
    t.add("counters", a.counters, call.counter_words * 4, 4, Use::kCounter);
  }
  return t.accesses();
}

}  // namespace
}  // namespace patch::host

namespace patch {

void log(Severity severity, const std::string& message) noexcept {
  host::messages += std::to_string(static_cast<int>(severity)) + " " + message + "\n";
}

cudaError_t current_device(Device* device) noexcept {
  if (host::device.sms == 0) return cudaErrorNoDevice;
  *device = host::device;
  return cudaSuccess;
}

bool has_kernels(Scalar scalar, Group group) noexcept {
  return !host::lacks[static_cast<int>(scalar)][static_cast<int>(group)];
}

cudaError_t launch(LinearArguments a, const PartTable& table, Scalar scalar, const Schedule& schedule,
                   cudaStream_t stream) noexcept {
  ++host::launched[0];
  host::scheduled = schedule;
  if (!host::run_call) return cudaSuccess;
  a.parts = schedule.parts, a.scalar = scalar;
  const Config& c = kConfigs[schedule.config];
  const host::Call call = host::call_of(a, scalar, c, schedule.config);
  return host::enqueue(stream, {host::accesses_of(call, c), [=] {
                                  host::Call now = call;
                                  if (c.kernel == Kernel::kStream) now.table = &table;
                                  host::Stats stats;
                                  return host::run_call(&now, &stats) ? host::found(host::call_error())
                                                                      : cudaSuccess;
                                }});
}

cudaError_t launch_rounding(LinearArguments linear, Scalar scalar, cudaStream_t stream) noexcept {
  using Use = host::GlobalMemory::Use;
  linear.scalar = scalar;
  if (!choose_vectors(&linear)) return cudaErrorMisalignedAddress;
  const QuantiseArguments a(linear);
  const size_t tokens = a.tokens;
  host::KernelTensors t;
  t.add("X", a.x, tokens * a.in_features * 2, 2);
  t.add("rounded X", a.rounded, tokens * padded_columns(a.in_features), 1, Use::kWorkspace);
  t.add("token scales", a.scales, tokens * 4, 4, Use::kWorkspace);
  const auto kernel = [=] { return patch_quantise(a); };
  return host::enqueue(stream, {t.accesses(), [=] {
                                  return host::run(t.memory(), "rounded X", true, a.blocks(),
                                                   kQuantiseThreads, kQuantiseShared, kernel);
                                }});
}

cudaError_t launch_unpack(const UnpackArguments& a, cudaStream_t stream) noexcept {
  using Use = host::GlobalMemory::Use;
  const size_t rows = a.panel_rows;
  host::KernelTensors t;
  t.add_slabs(a.slabs);
  t.add("index", a.index, host::index_words(a.slabs, a.kinds, a.all_panels) * 4, 4);
  t.add("scales", a.scales, rows * a.all_panels * 4, 4);
  const size_t columns = size_t{kSlabColumns} * a.columns * input_bytes(a.weights);
  t.add("W", a.weight, rows * a.panels * columns, 2, Use::kWorkspace);
  ++host::launched[1];
  const auto kernel = [a] {
    if (!is_quantised(a.weights)) return a.panel_rows == 64 ? patch_unpack<64>(a) : patch_unpack<128>(a);
    if (a.weights == Weights::kW8A8)
      return a.panel_rows == 64 ? patch_unpack_bytes<64>(a) : patch_unpack_bytes<128>(a);
    if (a.scalar == Scalar::kHalf)
      return a.weights == Weights::kInt8 ? patch_unpack_integers<Half, Weights::kInt8>(a)
                                         : patch_unpack_integers<Half, Weights::kInt4>(a);
    return a.weights == Weights::kInt8 ? patch_unpack_integers<BFloat16, Weights::kInt8>(a)
                                       : patch_unpack_integers<BFloat16, Weights::kInt4>(a);
  };
  return host::enqueue(stream, {t.accesses(), [=] {
                                  return host::run(t.memory(), "W", true, a.blocks(), kUnpackThreads,
                                                   kUnpackShared, kernel);
                                }});
}

cudaError_t launch_activate(const ActivateArguments& a, Scalar scalar, cudaStream_t stream) noexcept {
  using Use = host::GlobalMemory::Use;
  const size_t tokens = a.tokens, features = a.out_features;
  // From the first feature of a piece to its last one, of the last token or side.
  const size_t outputs = (tokens - 1) * features + a.columns;
  host::KernelTensors t;
  t.add("z", a.z, tokens * a.stride * (a.scales ? 4 : 2), 2);
  t.add("scales", a.scales, size_t{4} * a.stride, 4);
  t.add("token scales", a.token_scales, tokens * 4, 4);
  t.add("bias", a.bias, (a.gated * features + a.columns) * 2, 2);
  t.add("residual", a.residual, outputs * 2, 2);
  t.add("Y", a.y, outputs * 2, 2, Use::kOutput);
  ++host::launched[2];
  const auto kernel = [=] {
    return scalar == Scalar::kHalf ? patch_activate<Half>(a) : patch_activate<BFloat16>(a);
  };
  return host::enqueue(stream, {t.accesses(), [=] {
                                  return host::run(t.memory(), "Y", a.columns == a.out_features, a.blocks(),
                                                   kActivateThreads, 0, kernel);
                                }});
}

}  // namespace patch

#pragma GCC visibility push(default)
extern "C" {

// No SMs: there is no device.
void patch_plugin_device(const patch::Device* device) { patch::host::device = *device; }
// Takes a group of kernels away, from now on.
void patch_plugin_lacks(int scalar, int group) { patch::host::lacks[scalar][group] = true; }
// Runs the other kernels by functions of a library with driver.cpp, from now on.
void patch_plugin_run_kernels(patch::host::RunCall run, patch::host::CallError error) {
  patch::host::run_call = run, patch::host::call_error = error;
}
// Returns the log messages since the last call.
const char* patch_plugin_messages() {
  static std::string taken;
  taken = std::move(patch::host::messages);
  patch::host::messages.clear();
  return taken.c_str();
}
const char* patch_plugin_fault() { return patch::host::first_fault().c_str(); }
void patch_plugin_launched(int* counts) {
  for (int i = 0; i < 3; ++i) counts[i] = patch::host::launched[i], patch::host::launched[i] = 0;
}
// Returns the configuration of the last launch of the other kernels.
int patch_plugin_scheduled() { return patch::host::scheduled.config; }

// Runs the dense path without the plugin.  Returns an error, or null.
const char* patch_plugin_dense_path(const patch::Problem* p, int scalar, const patch::LinearArguments* a,
                                    void* workspace) {
  static std::string why;
  std::string& fault = patch::host::first_fault();
  fault.clear();
  patch::DensePath path;
  why = path.prepare(*p, {a->bias != nullptr, a->residual != nullptr, a->activation},
                     static_cast<patch::Scalar>(scalar));
  if (why.empty()) why = path.run(*a, workspace, nullptr);
  if (!fault.empty()) why = fault;
  return why.empty() ? nullptr : why.c_str();
}

// Run one kernel of the dense path.
int patch_plugin_unpack(const patch::UnpackArguments* a) {
  patch::host::first_fault().clear();
  return patch::launch_unpack(*a, nullptr);
}
int patch_plugin_activate(const patch::ActivateArguments* a, int scalar) {
  patch::host::first_fault().clear();
  return patch::launch_activate(*a, static_cast<patch::Scalar>(scalar), nullptr);
}

}  // extern "C"
#pragma GCC visibility pop
