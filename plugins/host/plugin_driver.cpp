// C interface of the TensorRT plugin without TensorRT.  Linked with cuda_on_host.cpp and
// launches_on_host.cpp it runs on a machine without a GPU, for the tests; linked with CUDA and the kernels it
// runs on a GPU (benchmarks/kernels/plugin_on_gpu.py).
#include <cuda_runtime_api.h>

#include <cstring>
#include <memory>
#include <string>

#include "dense_path/choice.h"
#include "tensorrt/library.h"
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
  const void *x, *values[kKindCount], *extra[kKindCount], *scales, *bias, *residual;
  void *y, *workspace;
};

PatchLinearPlugin* plugin_of(void* p) { return static_cast<PatchLinearPlugin*>(p); }

Weights weights_of(const Linear& l) { return patch::weights_of(l.attributes.weights); }
int64_t rows_of(const Linear& l) { return int64_t{l.attributes.out_features} << l.attributes.gated; }
int64_t panels_of(const Linear& l) { return ceil_div(rows_of(l), l.attributes.panel_rows); }

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
    if (kind > 0)
      in.push_back(
          tensor(DataType::kINT32, {l.slabs.of[kind], a.panel_rows * extra_bytes(kind, weights_of(l)) / 4}));
  }
  if (has_row_scales(weights_of(l))) in.push_back(tensor(DataType::kFLOAT, {panels_of(l) * a.panel_rows}));
  if (l.bias) in.push_back(tensor(type, {rows_of(l)}));
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

// CUDA's functions that the caller of this interface needs too.  A library with a CUDA runtime of its own
// hides them.
struct CudaFunction {
  const char* name;
  void* address;
};
#define PATCH_CUDA_FUNCTION(name) {#name, reinterpret_cast<void*>(&(name))}
const CudaFunction kCudaFunctions[] = {PATCH_CUDA_FUNCTION(cudaGetErrorString),
                                       PATCH_CUDA_FUNCTION(cudaMalloc),
                                       PATCH_CUDA_FUNCTION(cudaFree),
                                       PATCH_CUDA_FUNCTION(cudaMemsetAsync),
                                       PATCH_CUDA_FUNCTION(cudaMemcpyAsync),
                                       PATCH_CUDA_FUNCTION(cudaStreamCreateWithFlags),
                                       PATCH_CUDA_FUNCTION(cudaStreamSynchronize),
                                       PATCH_CUDA_FUNCTION(cudaStreamDestroy),
                                       PATCH_CUDA_FUNCTION(cudaStreamBeginCapture),
                                       PATCH_CUDA_FUNCTION(cudaStreamEndCapture),
                                       PATCH_CUDA_FUNCTION(cudaGraphGetNodes),
                                       PATCH_CUDA_FUNCTION(cudaGraphInstantiate),
                                       PATCH_CUDA_FUNCTION(cudaGraphDestroy),
                                       PATCH_CUDA_FUNCTION(cudaGraphLaunch),
                                       PATCH_CUDA_FUNCTION(cudaGraphExecDestroy)};
#undef PATCH_CUDA_FUNCTION

}  // namespace
}  // namespace patch::host

using patch::host::Linear;
using patch::host::plugin_of;

#pragma GCC visibility push(default)  // the rest of the library hides its names, as the plugin does
extern "C" {

// index: as many numbers as the attributes ask for.  Null, and a message, for an index that lies.
void* patch_plugin_new(const Linear* l, const int32_t* index, int64_t size) {
  const patch::Attributes& a = l->attributes;
  auto checked = std::make_shared<patch::PackedIndex>();
  const int64_t panels = patch::host::panels_of(*l);
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
// Returns the plugin of a new context, or null.
void* patch_plugin_attach(void* p) { return plugin_of(p)->attachToContext(nullptr); }
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
  return plugin_of(p)->enqueue(in.data(), nullptr, inputs.data(), &t->y, t->workspace,
                               static_cast<cudaStream_t>(stream));
}

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

// Returns the address of a function of CUDA, or null.
void* patch_plugin_cuda(const char* name) {
  for (const auto& f : patch::host::kCudaFunctions)
    if (std::strcmp(f.name, name) == 0) return f.address;
  return nullptr;
}

}  // extern "C"
#pragma GCC visibility pop
