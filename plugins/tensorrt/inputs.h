// The inputs of a PatchLinear node by number, and what their shapes and types must be.  The kernels check
// neither.
#pragma once
#include <initializer_list>
#include <string>
#include <string_view>

#include "NvInferRuntime.h"
#include "kernels/index.h"
#include "tensorrt/attributes.h"
#include "tensorrt/log.h"

namespace patch {

// The inputs of every node.  Those of further kinds of slabs, scales, bias and residual come after them.
enum Input : int32_t { kX, kDense, kSparse, kMeta, kOthers };

// The inputs with the slabs of a kind, which has this place among the kinds of the linear.  Dense slabs have
// no second tensor.
inline int32_t values_input(int place) { return place == 0 ? kDense : 2 * place; }
inline int32_t extra_input(int place) { return 2 * place + 1; }
static_assert(kSparse == 2 && kMeta == 3 && kOthers == 4);
inline int32_t first_after_slabs(const PackedIndex& index) {
  return 2 * static_cast<int32_t>(index.kinds().size());
}
// Returns true if the input after the slabs is the scales.
inline bool has_scales(const Attributes& a) { return has_row_scales(weights_of(a.weights)); }
inline int32_t first_after_scales(const Attributes& a, const PackedIndex& index) {
  return first_after_slabs(index) + static_cast<int32_t>(has_scales(a));
}
// Returns true for an input of metadata or masks, which are words.
inline bool is_extra(const PackedIndex& index, int32_t input) {
  return input >= kMeta && input < first_after_slabs(index) && input % 2 == 1;
}
// Returns the type that an input must have if X has type `x`.
inline nvinfer1::DataType type_of_input(const Attributes& a, const PackedIndex& index, int32_t input,
                                        nvinfer1::DataType x) {
  const bool slabs = input > kX && input < first_after_slabs(index);
  if (is_extra(index, input) || (slabs && is_quantised(weights_of(a.weights))))
    return nvinfer1::DataType::kINT32;
  return has_scales(a) && input == first_after_slabs(index) ? nvinfer1::DataType::kFLOAT : x;
}
// Returns the name that weights of X's type have.
inline const char* name_of(nvinfer1::DataType x) {
  return x == nvinfer1::DataType::kHALF ? kWeightTypeNames[1] : kWeightTypeNames[2];
}
// Returns true if X may have this type.
inline bool suits(const Attributes& a, nvinfer1::DataType x) {
  if (x != nvinfer1::DataType::kHALF && x != nvinfer1::DataType::kBF16) return false;
  return a.weights == 0 || is_quantised(weights_of(a.weights)) ||
         std::string_view(kWeightTypeNames[a.weights]) == name_of(x);
}

// Returns false for a shape without a rank, whose dimensions are not there.
inline bool has_rank(const nvinfer1::Dims& d) {
  return d.nbDims >= 0 && d.nbDims <= nvinfer1::Dims::MAX_DIMS;
}

inline std::string text(const nvinfer1::Dims& d) {
  if (!has_rank(d)) return "of rank " + std::to_string(d.nbDims);
  std::string s = "[";
  for (int32_t i = 0; i < d.nbDims; ++i) s += (i ? ", " : "") + std::to_string(d.d[i]);
  return s + "]";
}

// Returns the number of rows of X, -1 if a dimension is negative.  Above kMostTokens it is not exact, so that
// the product of the dimensions can't overflow.
inline int64_t tokens_of(const nvinfer1::Dims& x) {
  int64_t tokens = 1;
  for (int32_t i = 0; i + 1 < x.nbDims; ++i) {
    if (x.d[i] < 0) return -1;
    tokens = tokens > 0 && x.d[i] > kMostTokens / tokens ? kMostTokens + 1 : tokens * x.d[i];
  }
  return tokens;
}

inline int32_t check_tokens(const nvinfer1::Dims& x) {
  const int64_t tokens = tokens_of(x);
  if (tokens < 0) return fail("X has shape " + text(x) + ", which has a negative dimension");
  return tokens <= kMostTokens ? 0 : fail("more than 2^31 - 1 tokens in X of shape " + text(x));
}

inline bool is(const nvinfer1::Dims& d, std::initializer_list<int64_t> expected) {
  int32_t i = 0;
  if (!has_rank(d) || d.nbDims != static_cast<int32_t>(expected.size())) return false;
  for (const int64_t e : expected)
    if (d.d[i++] != e) return false;
  return true;
}

// While the builder configures, a dimension may be unknown.
enum class When { kBuild, kRun };
inline bool is_size(int64_t dim, int64_t size, When when) {
  return dim == size || (when == When::kBuild && dim == -1);
}

// Checks that the packed tensors fit together, because the kernels do not check their sizes.
template <class DimsOf>
int32_t check_shapes(const Attributes& a, const PackedIndex& index, int32_t inputs, When when,
                     const DimsOf& dims_of) {
  const nvinfer1::Dims& x = dims_of(kX);
  if (!has_rank(x) || x.nbDims < 1 || !is_size(x.d[x.nbDims - 1], a.in_features, when))
    return fail("X has shape " + text(x) +
                ", its last dimension must be in_features = " + std::to_string(a.in_features));
  const int64_t rows = a.panel_rows;
  const Weights weights = weights_of(a.weights);
  const auto expect = [&](int32_t input, const std::string& name, std::initializer_list<int64_t> shape) {
    if (is(dims_of(input), shape)) return 0;
    std::string counts;
    for (const int kind : index.kinds())
      counts += (counts.empty() ? "" : ", ") + std::to_string(index.slabs().of[kind]) + " " +
                kind_of(kind, weights).name;
    return fail(name + " has shape " + text(dims_of(input)) + ", which does not fit the index of " + counts +
                " slabs");
  };
  const std::string extras = weights == Weights::kW8A8 ? "meta" : "masks";
  for (int place = 0; place < static_cast<int>(index.kinds().size()); ++place) {
    const int kind = index.kinds()[place];
    const int64_t count = index.slabs().of[kind];
    const std::string of = std::string(" of ") + kind_of(kind, weights).name;
    if (expect(values_input(place),
               place == 0   ? "dense"
               : place == 1 ? "sparse"
                            : "values" + of,
               {count, rows * value_bytes(kind, weights) / (is_quantised(weights) ? 4 : 2)}))
      return -1;
    if (place > 0 && expect(extra_input(place), place == 1 ? "meta" : extras + of,
                            {count, rows * extra_bytes(kind, weights) / 4}))
      return -1;
  }
  const int64_t all_rows = int64_t{a.out_features} << a.gated;
  if (has_scales(a) &&
      expect(first_after_slabs(index), "scales", {ceil_div(all_rows, a.panel_rows) * a.panel_rows}))
    return -1;
  if (a.residual) {
    const nvinfer1::Dims& y = dims_of(inputs - 1);
    bool fits = y.nbDims == x.nbDims && is_size(y.d[y.nbDims - 1], a.out_features, when);
    for (int32_t i = 0; fits && i + 1 < x.nbDims; ++i)
      fits = is_size(y.d[i], x.d[i], when) || is_size(x.d[i], y.d[i], when);
    if (!fits) return fail("residual has shape " + text(y) + ", it must be that of Y");
  }
  const int32_t bias = first_after_scales(a, index);
  return inputs > bias + a.residual ? expect(bias, "bias", {all_rows}) : 0;
}

// Checks the types, which supportsFormatCombination has offered; an engine may say others.
template <class DescOf>
int32_t check_types(const Attributes& a, const PackedIndex& index, int32_t inputs, const DescOf& desc_of) {
  const nvinfer1::DataType type = desc_of(kX).type;
  bool known = type == nvinfer1::DataType::kHALF || type == nvinfer1::DataType::kBF16;
  if (known && !suits(a, type))
    return fail(std::string("weights is ") + kWeightTypeNames[a.weights] + " and X is " + name_of(type) +
                ": weights of 16 bits must have the type of X");
  const int32_t scales = first_after_slabs(index);
  if (has_scales(a) && desc_of(scales).type != nvinfer1::DataType::kFLOAT)
    return fail(std::string("the input after the slabs of ") + kWeightTypeNames[a.weights] +
                " weights must be their scales, FLOAT numbers; there is another tensor in its place");
  for (int32_t i = 0; known && i < inputs; ++i)
    known = desc_of(i).type == type_of_input(a, index, i, type) &&
            desc_of(i).format == nvinfer1::TensorFormat::kLINEAR;
  if (known) return 0;
  return fail(
      is_quantised(weights_of(a.weights))
          ? "X, bias and residual must be all fp16 or all bf16, the tensors of slabs of integers INT32, and "
            "all of them linear"
          : "X, values of slabs, bias and residual must be all fp16 or all bf16, meta and masks INT32, and "
            "all of them linear");
}

}  // namespace patch
