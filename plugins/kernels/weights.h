// The types of weights.  A weight of 16 bits has the type of X.  An integer is stored with a bias, so that no
// stored number has a sign, and its weight is the integer times a scale.
//
//   int8   a byte, q + 128     a scale of fp32 for each row, which multiplies the sums of X q^T
//   int4   4 bits, q + 8       a scale of X's type for each row of a slab; the weight is q times it, rounded
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

enum class Weights : int8_t { kSixteenBits = 0, kInt8 = 1, kInt4 = 2 };
// Names of the types, as nodes have them, by number; the first is for a node that names none, whose weights
// have the type of X.
inline constexpr const char* kWeightTypeNames[] = {"", "float16", "bfloat16", "int8", "int4"};
inline constexpr int kWeightTypeCount = sizeof(kWeightTypeNames) / sizeof(kWeightTypeNames[0]);
constexpr Weights weights_of(int type) {
  return type == 3 ? Weights::kInt8 : type == 4 ? Weights::kInt4 : Weights::kSixteenBits;
}

constexpr bool is_quantised(Weights weights) { return weights != Weights::kSixteenBits; }
// Bytes of a slab per panel row: of the values, for each of 16 that is kept, and of the scale behind them.
constexpr int kept_bytes(Weights weights) { return 8 >> static_cast<int>(weights); }
constexpr int scale_bytes(Weights weights) { return weights == Weights::kInt4 ? 2 : 0; }

}  // namespace patch
