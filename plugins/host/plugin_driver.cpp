// C interface of the TensorRT plugin on a machine without a GPU, for the tests.  PatchLinearPlugin and the
// dense path are the real code.  The kernels of the dense path run on fibers, and the CUDA functions that
// they call are replaced below.  driver.cpp runs the other kernels; here their launches are only counted.
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>

#include "dense_path/choice.h"
#include "host/machine.h"
#include "kernels/activate_kernel.cuh"
#include "kernels/launch.h"
#include "kernels/unpack_integers_kernel.cuh"
#include "tensorrt/log.h"
#include "tensorrt/patch_linear_plugin.h"

namespace patch::host {
namespace {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

struct Linear {
  Attributes attributes;
  int32_t bias = 0, scalar = 0;
  SlabCounts slabs{};
  int32_t kinds = 3;  // bit i: kind i of the table has tensors
  int64_t tokens = 0;
};
struct Tensors {
  const void *x, *values[kKindCount], *extra[kKindCount], *scales, *index, *bias, *residual;
  void *y, *workspace;
};

Device device{};
std::string messages, fault;  // log messages; first fault found by the emulation
int launched[3];              // launches of the other kernels, of unpack and of activate
Schedule scheduled{-1, 1};    // of the last launch of the other kernels
Linear now;                   // the linear that is being enqueued
Tensors tensors;

PatchLinearPlugin* plugin_of(void* p) { return static_cast<PatchLinearPlugin*>(p); }

Weights weights_of(const Linear& l) { return patch::weights_of(l.attributes.weights); }
int64_t panels_of(const Linear& l) { return ceil_div(l.attributes.out_features, l.attributes.panel_rows); }

Kinds kinds_of(const Linear& l) {
  Kinds kinds;
  for (int kind = 0; kind < kKindCount; ++kind)
    if (l.kinds >> kind & 1) kinds.push_back(kind);
  return kinds;
}

// X is [batch, tokens, in_features].
std::vector<PluginTensorDesc> inputs_of(const Linear& l, int64_t batch = 1) {
  const Attributes& a = l.attributes;
  const auto type = l.scalar == 0 ? DataType::kHALF : DataType::kBF16;
  const auto tensor = [](DataType of, std::initializer_list<int64_t> dims) {
    PluginTensorDesc d{};
    d.type = of, d.format = nvinfer1::TensorFormat::kLINEAR,
    d.dims.nbDims = static_cast<int32_t>(dims.size());
    std::copy(dims.begin(), dims.end(), d.dims.d);
    return d;
  };
  std::vector<PluginTensorDesc> in{tensor(type, {batch, l.tokens, a.in_features})};
  for (const int kind : kinds_of(l)) {
    const bool words = is_quantised(weights_of(l));
    in.push_back(
        tensor(words ? DataType::kINT32 : type,
               {l.slabs.of[kind], a.panel_rows * value_bytes(kind, weights_of(l)) / (words ? 4 : 2)}));
    if (kind > 0) in.push_back(tensor(DataType::kINT32, {l.slabs.of[kind], a.panel_rows * 2}));
  }
  if (weights_of(l) == Weights::kInt8)
    in.push_back(tensor(DataType::kFLOAT, {panels_per_tile(a.gated) * panels_of(l) * a.panel_rows}));
  if (l.bias) in.push_back(tensor(type, {panels_per_tile(a.gated) * int64_t{a.out_features}}));
  if (a.residual) in.push_back(tensor(type, {batch, l.tokens, a.out_features}));
  return in;
}

// A profile of 1 to l.tokens tokens, timed with `timed` tokens.
std::vector<DynamicPluginTensorDesc> profile_of(const Linear& l, int64_t timed = 1) {
  std::vector<DynamicPluginTensorDesc> out;
  for (const PluginTensorDesc& d : inputs_of(l)) {
    DynamicPluginTensorDesc dynamic{};
    dynamic.desc = d, dynamic.min = dynamic.opt = dynamic.max = d.dims;
    if (d.dims.nbDims == 3) dynamic.desc.dims.d[1] = -1, dynamic.min.d[1] = 1, dynamic.opt.d[1] = timed;
    out.push_back(dynamic);
  }
  return out;
}

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
  if (error.empty()) return cudaSuccess;
  if (fault.empty()) fault = error;
  return cudaErrorUnknown;
}

}  // namespace
}  // namespace patch::host

// Replacements for the functions of CUDA and of TensorRT's log that the plugin calls.
extern "C" {
cudaError_t cudaGetDevice(int* number) { return *number = 0, cudaSuccess; }
cudaError_t cudaFree(void* p) { return std::free(p), cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "a CUDA error"; }
}

namespace patch {

void log(Severity severity, const std::string& message) noexcept {
  host::messages += std::to_string(static_cast<int>(severity)) + " " + message + "\n";
}
cudaError_t current_device(Device* device) noexcept {
  if (host::device.sms == 0) return cudaErrorNoDevice;
  *device = host::device;
  return cudaSuccess;
}
const int32_t* ContextMemory::index() const { return memory_.get() + kCounterBytes / sizeof(int32_t); }
cudaError_t ContextMemory::make(const std::vector<int32_t>& index) noexcept {
  memory_.reset(static_cast<int32_t*>(std::calloc(kCounterBytes + index.size() * sizeof(int32_t), 1)));
  std::copy(index.begin(), index.end(), memory_.get() + kCounterBytes / sizeof(int32_t));
  return cudaSuccess;
}
cudaError_t launch(LinearArguments, const PartTable&, Scalar, const Schedule& schedule,
                   cudaStream_t) noexcept {
  ++host::launched[0];
  host::scheduled = schedule;
  return cudaSuccess;
}

cudaError_t launch_unpack(const UnpackArguments& a, cudaStream_t) noexcept {
  using Use = host::GlobalMemory::Use;
  const auto& [l, t] = std::tie(host::now, host::tensors);
  const size_t rows = a.panel_rows;
  host::GlobalMemory memory;
  for (int kind = 0; kind < kinds_for(l.slabs, a.weights); ++kind) {
    const size_t count = l.slabs.of[kind];
    if (t.values[kind])
      memory.add("values", t.values[kind], count * rows * value_bytes(kind, a.weights), 2, Use::kInput);
    if (t.extra[kind]) memory.add("extra", t.extra[kind], count * rows * 8, 4, Use::kInput);
  }
  const size_t numbers = a.kinds * (a.all_panels * a.sides + 1) + slabs_in_all(l.slabs);
  memory.add("index", a.index, numbers * 4, 4, Use::kInput);
  if (a.scales) memory.add("scales", a.scales, rows * a.sides * a.all_panels * 4, 4, Use::kInput);
  memory.add("W", a.weight, rows * a.sides * a.panels * a.columns * kSlabColumns * 2, 2, Use::kOutput);
  ++host::launched[1];
  return host::run(memory, "W", true, a.blocks(), kUnpackThreads, kUnpackShared, [&] {
    if (!is_quantised(a.weights)) return a.panel_rows == 64 ? patch_unpack<64>(a) : patch_unpack<128>(a);
    if (a.scalar == Scalar::kHalf)
      return a.weights == Weights::kInt8 ? patch_unpack_integers<Half, Weights::kInt8>(a)
                                         : patch_unpack_integers<Half, Weights::kInt4>(a);
    return a.weights == Weights::kInt8 ? patch_unpack_integers<BFloat16, Weights::kInt8>(a)
                                       : patch_unpack_integers<BFloat16, Weights::kInt4>(a);
  });
}

cudaError_t launch_activate(const ActivateArguments& a, Scalar scalar, cudaStream_t) noexcept {
  using Use = host::GlobalMemory::Use;
  const auto& [l, t] = std::tie(host::now, host::tensors);
  const size_t sides = 1 + a.gated, tokens = a.tokens, features = a.out_features;
  host::GlobalMemory memory;
  memory.add("z", a.z, tokens * sides * a.stride * 2, 2, Use::kInput);
  if (l.bias) memory.add("bias", t.bias, sides * features * 2, 2, Use::kInput);
  if (t.residual) memory.add("residual", t.residual, tokens * features * 2, 2, Use::kInput);
  memory.add("Y", t.y, tokens * features * 2, 2, Use::kOutput);
  ++host::launched[2];
  const bool half = scalar == Scalar::kHalf;
  return host::run(memory, "Y", a.columns == a.out_features, a.blocks(), kActivateThreads, 0, [&] {
    if (a.gated)
      half ? patch_activate<Half, true>(a) : patch_activate<BFloat16, true>(a);
    else
      half ? patch_activate<Half, false>(a) : patch_activate<BFloat16, false>(a);
  });
}

}  // namespace patch

using patch::host::Linear;
using patch::host::plugin_of;

extern "C" {

// No SMs: there is no device.
void patch_plugin_device(const patch::Device* device) { patch::host::device = *device; }
// index: as many numbers as the attributes ask for.  Null, and a message, for an index that lies.
void* patch_plugin_new(const Linear* l, const int32_t* index, int64_t size) {
  const patch::Attributes& a = l->attributes;
  auto checked = std::make_shared<patch::PackedIndex>();
  const int64_t panels = patch::panels_per_tile(a.gated) * patch::host::panels_of(*l);
  const std::string fault =
      checked->take(std::vector<int32_t>(index, index + size), patch::host::kinds_of(*l),
                    patch::host::weights_of(*l), panels, patch::ceil_div(a.in_features, patch::kSlabColumns));
  if (fault.empty()) return std::make_unique<patch::PatchLinearPlugin>(a, std::move(checked)).release();
  patch::log(patch::Severity::kERROR, fault);
  return nullptr;
}
// Copies the index that an engine would hold; returns its size.
int patch_plugin_serialized_index(void* p, int32_t* out, int room) {
  const nvinfer1::PluginFieldCollection* all = plugin_of(p)->getFieldsToSerialize();
  for (int32_t i = 0; i < all->nbFields; ++i) {
    const nvinfer1::PluginField& f = all->fields[i];
    if (std::string(f.name) != "index") continue;
    std::copy_n(static_cast<const int32_t*>(f.data), std::min(f.length, room), out);
    return f.length;
  }
  return 0;
}
void* patch_plugin_clone(void* p) { return plugin_of(p)->clone(); }
void patch_plugin_delete(void* p) { const std::unique_ptr<patch::PatchLinearPlugin> owned(plugin_of(p)); }
const char* patch_plugin_timing_id(void* p) { return plugin_of(p)->getTimingCacheID(); }

// l->tokens: the largest number of tokens of the profile; timed: the number that the builder times.
int patch_plugin_configure(void* p, const Linear* l, int64_t timed) {
  const auto in = patch::host::profile_of(*l, timed);
  return plugin_of(p)->configurePlugin(in.data(), static_cast<int32_t>(in.size()), nullptr, 1);
}
size_t patch_plugin_workspace(void* p, const Linear* l) {
  const auto in = patch::host::profile_of(*l);
  return plugin_of(p)->getWorkspaceSize(in.data(), static_cast<int32_t>(in.size()), nullptr, 1);
}
int patch_plugin_tactics(void* p, int32_t* tactics) {
  const int32_t count = plugin_of(p)->getNbTactics();
  return plugin_of(p)->getValidTactics(tactics, count) == 0 ? count : -1;
}
int patch_plugin_set_tactic(void* p, int32_t tactic) { return plugin_of(p)->setTactic(tactic); }
int patch_plugin_shapes(void* p, const Linear* l, int64_t batch) {
  const auto in = patch::host::inputs_of(*l, batch);
  return plugin_of(p)->onShapeChange(in.data(), static_cast<int32_t>(in.size()), nullptr, 1);
}
int patch_plugin_enqueue(void* p, const Linear* l, const patch::host::Tensors* t, void* stream) {
  const auto in = patch::host::inputs_of(*l);
  std::vector<const void*> inputs{t->x};
  for (const int kind : patch::host::kinds_of(*l)) {
    inputs.push_back(t->values[kind]);
    if (kind > 0) inputs.push_back(t->extra[kind]);
  }
  if (t->scales) inputs.push_back(t->scales);
  if (t->bias) inputs.push_back(t->bias);
  if (t->residual) inputs.push_back(t->residual);
  patch::host::now = *l, patch::host::tensors = *t;
  return plugin_of(p)->enqueue(in.data(), nullptr, inputs.data(), &t->y, t->workspace,
                               static_cast<cudaStream_t>(stream));
}

// Returns the log messages since the last call.
const char* patch_plugin_messages() {
  static std::string taken;
  taken = std::move(patch::host::messages);
  patch::host::messages.clear();
  return taken.c_str();
}
const char* patch_plugin_fault() { return patch::host::fault.c_str(); }
void patch_plugin_launched(int* counts) {
  for (int i = 0; i < 3; ++i) counts[i] = patch::host::launched[i], patch::host::launched[i] = 0;
}

// Returns the configuration of the last launch of the other kernels.
int patch_plugin_scheduled() { return patch::host::scheduled.config; }

void patch_plugin_pieces(const patch::Problem* p, int bias, int residual, int activation, int64_t* out) {
  const patch::Epilogue e{bias != 0, residual != 0, static_cast<patch::Activation>(activation)};
  const patch::Pieces pieces = patch::choose_pieces(*p, e);
  out[0] = pieces.panels, out[1] = pieces.count, out[2] = patch::piece_bytes(*p, e, pieces.panels);
  out[3] = static_cast<int64_t>(patch::pieces_bound(*p, e));
}
int patch_plugin_takes_dense_path(const patch::Problem* p, int activation, const patch::Device* device) {
  return patch::takes_dense_path(*p, {false, false, static_cast<patch::Activation>(activation)}, *device);
}

int64_t patch_plugin_dense_path_bytes(const patch::Problem* p, int bias, int residual, int activation) {
  return static_cast<int64_t>(patch::dense_path_workspace(
      *p, {bias != 0, residual != 0, static_cast<patch::Activation>(activation)}));
}
// Runs the dense path without the plugin.  Returns an error, or null.
const char* patch_plugin_dense_path(const patch::Problem* p, int scalar, const patch::LinearArguments* a,
                                    void* workspace) {
  static std::string why;
  Linear& l = patch::host::now;
  l = {}, l.bias = a->bias != nullptr, l.slabs = a->counts();
  l.attributes.weights =
      p->weights == patch::Weights::kSixteenBits ? 0 : 2 + static_cast<int32_t>(p->weights);
  patch::host::Tensors& t = patch::host::tensors;
  t = {}, t.x = a->x, t.scales = a->scales, t.index = a->index, t.bias = a->bias, t.residual = a->residual,
  t.y = a->y;
  t.workspace = workspace;
  for (int kind = 0; kind < patch::kKindCount; ++kind)
    t.values[kind] = a->slabs[kind].values, t.extra[kind] = a->slabs[kind].extra;
  patch::host::fault.clear();
  patch::DensePath path;
  why = path.prepare(*p, {a->bias != nullptr, a->residual != nullptr, a->activation},
                     static_cast<patch::Scalar>(scalar));
  if (why.empty()) why = path.run(*a, workspace, nullptr);
  if (!patch::host::fault.empty()) why = patch::host::fault;
  return why.empty() ? nullptr : why.c_str();
}

// Launches the unpacking kernel alone.
int patch_plugin_unpack(const Linear* l, const patch::host::Tensors* t, const patch::UnpackArguments* a) {
  patch::host::now = *l, patch::host::tensors = *t, patch::host::fault.clear();
  return patch::launch_unpack(*a, nullptr);
}
int patch_plugin_activate(const Linear* l, const patch::host::Tensors* t, const patch::ActivateArguments* a) {
  patch::host::now = *l, patch::host::tensors = *t, patch::host::fault.clear();
  return patch::launch_activate(*a, static_cast<patch::Scalar>(l->scalar), nullptr);
}

}  // extern "C"
