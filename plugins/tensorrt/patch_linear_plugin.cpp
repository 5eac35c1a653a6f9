#include "tensorrt/patch_linear_plugin.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "dense_path/choice.h"
#include "kernels/launch.h"
#include "tensorrt/inputs.h"
#include "tensorrt/log.h"
#include "tensorrt/relaxed_capture.h"

namespace patch {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

// Returns the most tokens that a profile with this maximum can lead to: onShapeChange rejects more than
// kMostTokens.
int64_t most_tokens(const Dims& x) { return std::clamp<int64_t>(tokens_of(x), 0, kMostTokens); }

Problem problem(const Attributes& a, int64_t tokens, const PackedIndex& index) {
  return {tokens, a.out_features, a.in_features, a.panel_rows, index.slabs(), a.gated, weights_of(a.weights)};
}

// The arguments that a problem gives.
LinearArguments sizes_of(const Problem& p) {
  LinearArguments a{};
  a.tokens = static_cast<int32_t>(p.tokens);
  a.out_features = p.out_features;
  a.in_features = p.in_features;
  a.panels = static_cast<int32_t>(panel_count(p)), a.gated = p.gated;
  a.set_slabs(p.slabs, p.panel_rows, p.weights);
  return a;
}

Scalar scalar_of(const PluginTensorDesc& x) {
  return x.type == DataType::kHALF ? Scalar::kHalf : Scalar::kBFloat16;
}

// Returns -1, and logs an error, if this library was compiled without the kernels for such a weight.
int32_t check_kernels(const Attributes& a, const PackedIndex& index, const PluginTensorDesc& x) {
  const Weights weights = weights_of(a.weights);
  if (has_kernels(scalar_of(x), group_of(weights, kinds_for(index.slabs(), weights)))) return 0;
  return fail(std::string("this plugin was compiled for other engines: it has no kernels for X of ") +
              name_of(x.type) + " and weights of " +
              (is_quantised(weights) ? kWeightTypeNames[a.weights] : name_of(x.type)) +
              " in slabs of the kinds " + index.names() + "; `patch-compile plugin` compiles all kernels");
}

// Returns true if this GPU has a dense path for such slabs and cuBLASLt is found.
bool has_dense_path(const SlabCounts& slabs, Weights weights) {
  Device device{};
  std::string why;
  return current_device(&device) == cudaSuccess && may_gain_densely(slabs, weights, device) &&
         cublaslt::functions(&why);
}

// Returns the tactics for a profile with up to p.tokens tokens that is timed with `timed` tokens.  Warns if
// the dense path would be worth its workspace but cuBLASLt is missing.
Offer offer_of(Problem p, int64_t timed, const Epilogue& e) {
  static std::atomic<bool> warned{false};
  Device device{};
  if (current_device(&device) != cudaSuccess || !takes_dense_path(p, e, device)) return Offer::kKernels;
  p.tokens = timed;
  std::string why;
  if (cublaslt::functions(&why)) return takes_dense_path(p, e, device) ? Offer::kBoth : Offer::kDensePath;
  if (!warned.exchange(true))
    log(Severity::kWARNING,
        "prompts are multiplied by the plugin's kernels, which here is slower than unpacking the weights for "
        "cuBLASLt: " +
            why);
  return Offer::kKernels;
}

}  // namespace

PatchLinearPlugin::PatchLinearPlugin(const Attributes& attributes, std::shared_ptr<const PackedIndex> index)
    : attributes_(attributes),
      index_(std::move(index)),
      timing_id_(
          "in=" + std::to_string(attributes.in_features) + " out=" + std::to_string(attributes.out_features) +
          " rows=" + std::to_string(attributes.panel_rows) + " gated=" + std::to_string(attributes.gated) +
          " residual=" + std::to_string(attributes.residual) + " " + kActivationNames[attributes.activation] +
          " " + kWeightTypeNames[attributes.weights] + " " + index_->names() +
          (has_dense_path(index_->slabs(), weights_of(attributes.weights)) ? " dense-path" : "")) {}

Epilogue PatchLinearPlugin::epilogue() const noexcept {
  return {has_bias_, attributes_.residual != 0, static_cast<Activation>(attributes_.activation)};
}

int32_t PatchLinearPlugin::bias_input() const noexcept { return first_after_scales(attributes_, *index_); }

bool PatchLinearPlugin::takes(int32_t inputs) const noexcept {
  const int32_t least = bias_input() + attributes_.residual;
  return inputs == least || inputs == least + 1;
}

int32_t PatchLinearPlugin::check_count(int32_t inputs, int32_t outputs) const {
  if (takes(inputs) && outputs == 1) return 0;
  return fail(std::string("takes X, dense, sparse, meta") +
              (first_after_slabs(*index_) > kOthers ? ", values and masks of each of the other kinds" : "") +
              (has_scales(attributes_) ? ", scales" : "") + ", optionally bias" +
              (attributes_.residual ? " and residual" : "") + ", and has one output; got " +
              std::to_string(inputs) + " inputs and " + std::to_string(outputs) + " outputs");
}

nvinfer1::IPluginCapability* PatchLinearPlugin::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* PatchLinearPlugin::clone() noexcept {
  try {
    auto copy = std::make_unique<PatchLinearPlugin>(attributes_, index_);
    copy->tactic_ = tactic_;
    copy->has_bias_ = has_bias_;
    copy->offer_ = offer_;
    return copy.release();
  } catch (const std::bad_alloc&) {
    fail("out of memory while copying the plugin");
    return nullptr;
  }
}

int32_t PatchLinearPlugin::configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs,
                                           const DynamicPluginTensorDesc*, int32_t outputs) noexcept {
  if (check_count(inputs, outputs) != 0) return -1;
  has_bias_ = inputs > bias_input() + attributes_.residual;
  const auto desc_of = [in](int32_t i) -> const PluginTensorDesc& { return in[i].desc; };
  if (check_types(attributes_, *index_, inputs, desc_of) != 0) return -1;
  if (check_kernels(attributes_, *index_, in[kX].desc) != 0) return -1;
  if (check_shapes(attributes_, *index_, inputs, When::kBuild,
                   [&](int32_t i) -> const Dims& { return in[i].desc.dims; }) != 0)
    return -1;
  for (const auto& [dims, name] : {std::pair(&in[kX].max, "largest"), std::pair(&in[kX].opt, "timed one")})
    if (!has_rank(*dims) || dims->nbDims != in[kX].desc.dims.nbDims)
      return fail("X has shape " + text(in[kX].desc.dims) + ", and the " + name + " of a profile " +
                  text(*dims));
  if (tokens_of(in[kX].max) < 0)
    return fail("the largest X of a profile has shape " + text(in[kX].max) +
                ", which has a negative dimension");
  const Problem most = problem(attributes_, most_tokens(in[kX].max), *index_);
  offer_ = offer_of(most, most_tokens(in[kX].opt), epilogue());
  return 0;
}

int32_t PatchLinearPlugin::getOutputDataTypes(DataType* out, int32_t outputs, const DataType* in,
                                              int32_t inputs) const noexcept {
  if (check_count(inputs, outputs) != 0) return -1;
  out[0] = in[kX];
  return 0;
}

int32_t PatchLinearPlugin::getOutputShapes(const nvinfer1::DimsExprs* in, int32_t inputs,
                                           const nvinfer1::DimsExprs*, int32_t, nvinfer1::DimsExprs* out,
                                           int32_t outputs, nvinfer1::IExprBuilder& builder) noexcept {
  if (check_count(inputs, outputs) != 0) return -1;
  if (in[kX].nbDims < 1 || in[kX].nbDims > Dims::MAX_DIMS) return fail("X must have at least one dimension");
  out[0] = in[kX];
  out[0].d[out[0].nbDims - 1] = builder.constant(attributes_.out_features);
  return out[0].d[out[0].nbDims - 1] ? 0 : -1;
}

bool PatchLinearPlugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* in_out,
                                                  int32_t inputs, int32_t outputs) noexcept {
  if (!takes(inputs) || outputs != 1 || position < 0 || position > inputs) return false;
  const PluginTensorDesc& desc = in_out[position].desc;
  if (desc.format != nvinfer1::TensorFormat::kLINEAR) return false;
  if (position == kX) return suits(attributes_, desc.type);
  const DataType x = in_out[kX].desc.type;
  return desc.type == (position == inputs ? x : type_of_input(attributes_, *index_, position, x));
}

size_t PatchLinearPlugin::getWorkspaceSize(const DynamicPluginTensorDesc* in, int32_t inputs,
                                           const DynamicPluginTensorDesc*, int32_t outputs) const noexcept {
  // configurePlugin has refused the same, with a message.
  if (!takes(inputs) || outputs != 1 || !has_rank(in[kX].max) ||
      check_shapes(attributes_, *index_, inputs, When::kBuild,
                   [&](int32_t i) -> const Dims& { return in[i].desc.dims; }) != 0)
    return 0;
  const Problem most = problem(attributes_, most_tokens(in[kX].max), *index_);
  const size_t kernels = workspace_bound(most);
  const bool dense_path = offer_ != Offer::kKernels || tactic_ == kDensePathTactic;
  return dense_path ? std::max(kernels, dense_path_workspace(most, epilogue())) : kernels;
}

int32_t PatchLinearPlugin::getNbTactics() noexcept { return offer_ == Offer::kBoth ? 2 : 1; }

int32_t PatchLinearPlugin::getValidTactics(int32_t* tactics, int32_t count) noexcept {
  if (count != getNbTactics()) return fail("TensorRT asks for another number of tactics than it was given");
  if (offer_ != Offer::kDensePath) *tactics++ = kAutoTactic;
  if (offer_ != Offer::kKernels) *tactics++ = kDensePathTactic;
  return 0;
}

int32_t PatchLinearPlugin::setTactic(int32_t tactic) noexcept {
  // TensorRT passes 0 for "no custom tactic".
  if (tactic != 0 && tactic != kAutoTactic && tactic != kDensePathTactic)
    return fail("no tactic " + std::to_string(tactic) +
                ": the engine was built with another version of this plugin; build it again");
  tactic_ = tactic == kDensePathTactic ? tactic : kAutoTactic;
  scheduled_tokens_ = -1;
  return 0;
}

int32_t PatchLinearPlugin::onShapeChange(const PluginTensorDesc* in, int32_t inputs, const PluginTensorDesc*,
                                         int32_t outputs) noexcept {
  if (check_count(inputs, outputs) != 0) return -1;
  if (check_types(attributes_, *index_, inputs,
                  [in](int32_t i) -> const PluginTensorDesc& { return in[i]; }) != 0)
    return -1;
  if (check_kernels(attributes_, *index_, in[kX]) != 0) return -1;
  if (!has_rank(in[kX].dims)) return fail("X has shape " + text(in[kX].dims));
  has_bias_ = inputs > bias_input() + attributes_.residual;
  if (check_tokens(in[kX].dims) != 0) return -1;
  // A builder that times tactics may run a plugin without attaching it to a context.
  if (have_memory() != 0) return -1;
  if (check_shapes(attributes_, *index_, inputs, When::kRun,
                   [&](int32_t i) -> const Dims& { return in[i].dims; }) != 0)
    return -1;
  return have_schedule(in);
}

int32_t PatchLinearPlugin::enqueue(const PluginTensorDesc* in, const PluginTensorDesc*,
                                   const void* const* inputs, void* const* outputs, void* workspace,
                                   cudaStream_t stream) noexcept {
  if (check_tokens(in[kX].dims) != 0) return -1;
  const int64_t tokens = tokens_of(in[kX].dims);
  if (tokens == 0) return 0;
  // onShapeChange has made the memory and the schedule.
  if (!memory_.is_made()) return fail("enqueue before any shapes are known");
  if (have_schedule(in) != 0) return -1;
  const Problem p = problem(attributes_, tokens, *index_);
  LinearArguments a = sizes_of(p);
  a.x = static_cast<const uint16_t*>(inputs[kX]);
  bool there = true;
  for (int place = 0; place < static_cast<int>(index_->kinds().size()); ++place) {
    Slabs& own = a.slabs[index_->kinds()[place]];
    own.values = static_cast<const uint16_t*>(inputs[values_input(place)]);
    if (place > 0) own.extra = static_cast<const uint32_t*>(inputs[extra_input(place)]);
    there = there && (own.count == 0 || (own.values && (place == 0 || own.extra)));
  }
  if (has_scales(attributes_)) {
    a.scales = static_cast<const float*>(inputs[first_after_slabs(*index_)]);
    there = there && a.scales;
  }
  a.index = memory_.index();
  a.bias = has_bias_ ? static_cast<const uint16_t*>(inputs[bias_input()]) : nullptr;
  a.residual =
      attributes_.residual ? static_cast<const uint16_t*>(inputs[bias_input() + has_bias_]) : nullptr;
  a.activation = static_cast<Activation>(attributes_.activation);
  a.y = static_cast<uint16_t*>(outputs[0]);
  if (p.weights == Weights::kW8A8) {
    a.rounded = static_cast<int8_t*>(workspace);
    a.token_scales = reinterpret_cast<float*>(a.rounded + tokens * padded_columns(a.in_features));
    there = there && workspace;
  }
  a.partials = reinterpret_cast<float*>(static_cast<uint8_t*>(workspace) + rounded_bytes(p));
  a.counters = memory_.counters();
  there = there && a.x && a.y && (!has_bias_ || a.bias) && (!attributes_.residual || a.residual);
  if (!there) return fail("a tensor of the linear has no memory");
  std::string why;
  if (dense_path_ && DensePath::takes(a))
    why = dense_path_->run(a, workspace, stream);
  else if (const cudaError_t e = launch(a, *table_, scalar_of(in[kX]), schedule_, stream); e != cudaSuccess)
    why = cudaGetErrorString(e);
  if (why.empty()) return 0;
  return fail("X " + text(in[kX].dims) + " to " + std::to_string(attributes_.out_features) +
              " features: " + why);
}

nvinfer1::IPluginV3* PatchLinearPlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  std::unique_ptr<PatchLinearPlugin> attached(static_cast<PatchLinearPlugin*>(clone()));
  return attached && attached->have_memory() == 0 ? attached.release() : nullptr;
}

int32_t PatchLinearPlugin::have_schedule(const PluginTensorDesc* in) noexcept {
  const int64_t tokens = tokens_of(in[kX].dims);
  if (tokens == 0 || tokens == scheduled_tokens_) return 0;
  Device device{};
  if (const cudaError_t error = current_device(&device); error != cudaSuccess)
    return fail(std::string("no device: ") + cudaGetErrorString(error));
  const Problem p = problem(attributes_, tokens, *index_);
  schedule_ = choose_schedule(p, device);
  if (schedule_.config < 0)
    return fail("X of shape " + text(in[kX].dims) +
                " needs more shared memory than this device has, or more work than a launch can divide");
  if (const Config& c = kConfigs[schedule_.config]; c.kernel == Kernel::kStream) {
    LinearArguments a = sizes_of(p);
    a.parts = schedule_.parts;
    make_parts(table_.get(), a, index_->for_device().data(), c);
  }
  have_dense_path(p, device, scalar_of(in[kX]));
  scheduled_tokens_ = tokens;
  return 0;
}

void PatchLinearPlugin::have_dense_path(const Problem& p, const Device& device, Scalar scalar) noexcept {
  static std::atomic<bool> warned{false};
  dense_path_.reset();
  if (tactic_ != kDensePathTactic || !takes_dense_path(p, epilogue(), device)) return;
  auto made = std::make_unique<DensePath>();
  const RelaxedCapture relaxed;  // cuBLASLt may allocate
  const std::string why = made->prepare(p, epilogue(), scalar);
  if (why.empty())
    dense_path_ = std::move(made);
  else if (!warned.exchange(true))  // the kernels can multiply it too
    log(Severity::kWARNING, "multiplied by the kernels, though the engine was built for cuBLASLt: " + why);
}

int32_t PatchLinearPlugin::have_memory() noexcept {
  if (!table_) table_.reset(new (std::nothrow) PartTable{});
  if (!table_) return fail("out of memory for the table of a stream's parts");
  if (memory_.is_made()) return 0;
  const cudaError_t error = memory_.make(index_->for_device());
  return error == cudaSuccess ? 0
                              : fail(std::string("no memory for the counters and the index of a context: ") +
                                     cudaGetErrorString(error));
}

const nvinfer1::PluginFieldCollection* PatchLinearPlugin::getFieldsToSerialize() noexcept {
  try {
    using nvinfer1::PluginFieldType;
    const char* activation = kActivationNames[attributes_.activation];
    const char* weights = kWeightTypeNames[attributes_.weights];
    fields_ = {{"in_features", &attributes_.in_features, PluginFieldType::kINT32, 1},
               {"out_features", &attributes_.out_features, PluginFieldType::kINT32, 1},
               {"panel_rows", &attributes_.panel_rows, PluginFieldType::kINT32, 1},
               {"gated", &attributes_.gated, PluginFieldType::kINT32, 1},
               {"residual", &attributes_.residual, PluginFieldType::kINT32, 1},
               {"weights", weights, PluginFieldType::kCHAR, static_cast<int32_t>(std::strlen(weights) + 1)},
               {"kinds", index_->names().c_str(), PluginFieldType::kCHAR,
                static_cast<int32_t>(index_->names().size() + 1)},
               {"index", index_->values().data(), PluginFieldType::kINT32,
                static_cast<int32_t>(index_->values().size())},
               {"activation", activation, PluginFieldType::kCHAR,
                static_cast<int32_t>(std::strlen(activation) + 1)}};
  } catch (const std::bad_alloc&) {
    fail("out of memory while serializing the plugin");
    return nullptr;
  }
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
  return &collection_;
}

}  // namespace patch
