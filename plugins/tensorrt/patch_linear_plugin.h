// PatchLinear as a TensorRT plugin:
//
//   Y = PatchLinear(X, dense, sparse, meta[, values, masks]...[, scales][, bias][, residual])
//
// with values and masks for each further kind of slab that the attribute `kinds` names.  The attribute
// `weights` names the type of the weights; slabs of integers are words, and int8 and w8a8 have scales.
//
// The index of the slabs is an attribute, so that the host can look at it: it is checked when a plugin is
// created, and gives the table of a stream's parts when shapes change.  (TensorRT gives no host copy of an
// input.)
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "NvInferRuntime.h"
#include "dense_path/dense_path.h"
#include "kernels/arguments.h"
#include "kernels/index.h"
#include "kernels/schedule.h"
#include "tensorrt/attributes.h"
#include "tensorrt/context_memory.h"

namespace patch {

inline constexpr const char* kPluginName = "PatchLinear";
inline constexpr const char* kPluginVersion = "3";
inline constexpr const char* kPluginNamespace = "";

// TensorRT times tactics at one shape of a profile, and the winner serves every shape of it.  So no tactic is
// a single configuration: each chooses one at run time, from the shape (kernels/schedule.h).  The automatic
// tactic comes first, because a build without a GPU records the first one untimed.
inline constexpr int32_t kAutoTactic = 1;
// Takes the dense path for many tokens and does the same as the automatic tactic for few.  An engine that
// records it was built with the workspace that the dense path needs.  The automatic tactic never takes it.
inline constexpr int32_t kDensePathTactic = 1000;

// Which tactics there are.  If the dense path is taken for the most tokens of a profile, but not for those at
// which TensorRT times, both tactics do the same there, and noise would decide about long prompts: then the
// dense path's tactic is offered alone.
enum class Offer { kKernels, kDensePath, kBoth };

class PatchLinearPlugin final : public nvinfer1::IPluginV3,
                                public nvinfer1::IPluginV3OneCore,
                                public nvinfer1::IPluginV3OneBuild,
                                public nvinfer1::IPluginV3OneRuntime {
 public:
  // index: has been checked for these attributes.
  PatchLinearPlugin(const Attributes& attributes, std::shared_ptr<const PackedIndex> index);

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  const char* getPluginName() const noexcept override { return kPluginName; }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                          const nvinfer1::DynamicPluginTensorDesc* out, int32_t outputs) noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* out, int32_t outputs, const nvinfer1::DataType* in,
                             int32_t inputs) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* in, int32_t inputs, const nvinfer1::DimsExprs* shapes,
                          int32_t shape_inputs, nvinfer1::DimsExprs* out, int32_t outputs,
                          nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* in_out,
                                 int32_t inputs, int32_t outputs) noexcept override;
  int32_t getNbOutputs() const noexcept override { return 1; }
  size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                          const nvinfer1::DynamicPluginTensorDesc* out,
                          int32_t outputs) const noexcept override;
  int32_t getNbTactics() noexcept override;
  int32_t getValidTactics(int32_t* tactics, int32_t count) noexcept override;
  const char* getTimingCacheID() noexcept override { return timing_id_.c_str(); }

  int32_t setTactic(int32_t tactic) noexcept override;
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t inputs,
                        const nvinfer1::PluginTensorDesc* out, int32_t outputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                  const void* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override;
  // Returns a copy with its own memory, so that contexts may run at the same time.
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 private:
  Weights weights() const noexcept { return weights_of(attributes_.weights); }
  // Number of the input that is the bias, if there is one; X, the tensors of slabs and scales come before it.
  int32_t bias_input() const noexcept;
  // Returns true if a node may have this number of inputs.
  bool takes(int32_t inputs) const noexcept;
  // Returns -1, and logs an error, for another number of inputs or outputs.
  int32_t check_count(int32_t inputs, int32_t outputs) const;
  // Allocates the memory of a context unless it exists.  Returns -1 if there is none.
  int32_t have_memory() noexcept;
  // Makes schedule_, table_ and dense_path_ for this number of tokens, unless they are made or there are no
  // tokens. Returns -1 if the device can't run the tactic.
  int32_t have_schedule(const nvinfer1::PluginTensorDesc* in) noexcept;
  // Makes dense_path_ if the tactic takes it for this problem.
  void have_dense_path(const Problem& p, const Device& device, Scalar scalar) noexcept;
  Epilogue epilogue() const noexcept;

  Attributes attributes_;
  std::shared_ptr<const PackedIndex> index_;
  int32_t tactic_ = kAutoTactic;
  int64_t scheduled_tokens_ = -1;
  Schedule schedule_{-1, 1};
  std::unique_ptr<PartTable> table_;       // of a stream
  std::unique_ptr<DensePath> dense_path_;  // null: run the kernels as in schedule_
  bool has_bias_ = false;
  Offer offer_ = Offer::kKernels;
  ContextMemory memory_;
  std::string timing_id_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace patch
