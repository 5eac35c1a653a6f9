// The types of weights.  A weight of 16 bits has the type of X.  The weight of an integer is the integer
// times a scale.  Where integers are converted to 16 bits, they are stored with a bias, so that no stored
// number has a sign.
//
//   int8   a byte, q + 128   a scale of fp32 for each row, which multiplies the sums of X q^T
//   w8a8   a byte, q         the same, and X is rounded to integers too (quantise_kernel.cuh)
//   int4   4 bits, q + 8     a scale of X's type for each row of a slab; the weight is q times it, rounded
//
// All of this depends on the type alone.  What the bytes of a slab are is said in decode_*.cuh.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define PATCH_BOTH __host__ __device__ __forceinline__
#else
#define PATCH_BOTH inline
#endif

namespace patch {

enum class Weights : int8_t { kSixteenBits = 0, kInt8 = 1, kW8A8 = 2, kInt4 = 3 };
// Names of the types, as nodes have them, by number; the first is for a node that names none, whose weights
// have the type of X.
inline constexpr const char* kWeightTypeNames[] = {"", "float16", "bfloat16", "int8", "w8a8", "int4"};
inline constexpr int kWeightTypeCount = sizeof(kWeightTypeNames) / sizeof(kWeightTypeNames[0]);
constexpr Weights weights_of(int type) {
  switch (type) {
    case 3:
      return Weights::kInt8;
    case 4:
      return Weights::kW8A8;
    case 5:
      return Weights::kInt4;
    default:
      return Weights::kSixteenBits;
  }
}

PATCH_BOTH constexpr bool is_quantised(Weights weights) { return weights != Weights::kSixteenBits; }
// Bytes of a slab per panel row: of the values, for each of 16 that is kept, and of the scale behind them.
constexpr int kept_bytes(Weights weights) {
  return weights == Weights::kSixteenBits ? 8 : weights == Weights::kInt4 ? 2 : 4;
}
constexpr int scale_bytes(Weights weights) { return weights == Weights::kInt4 ? 2 : 0; }
// Returns true if each row of W has a scale, which multiplies its sums.
constexpr bool has_row_scales(Weights weights) {
  return weights == Weights::kInt8 || weights == Weights::kW8A8;
}
// Bytes of a value of X that is multiplied by the weights.
constexpr int input_bytes(Weights weights) { return weights == Weights::kW8A8 ? 1 : 2; }
// The most columns of w8a8: a sum of 127 * 128 times as many fits into int32.
inline constexpr int32_t kMostByteColumns = 1 << 17;
static_assert(int64_t{127} * 128 * kMostByteColumns <= INT32_MAX);
// Columns of rounded X: those behind the last one of X are zeros, so that rows are whole slabs.
PATCH_BOTH int64_t padded_columns(int32_t in_features) { return (int64_t{in_features} + 63) / 64 * 64; }

}  // namespace patch
