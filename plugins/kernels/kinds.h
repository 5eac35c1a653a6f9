// The kinds of slabs, by number: the place of a kind among the kinds of a type of weights, in the order
// of masklearn/masks/kinds/table.py, whose names they have.
#pragma once
#include <cstdint>

#include "kernels/weights.h"

namespace patch {

struct Kind {
  const char* name;
  int values;  // number of values that are kept of 16
  int extra;   // bytes of a slab per panel row in the second of its two tensors
};

// Of all types but w8a8.
inline constexpr Kind kKinds[] = {
    {"dense", 16, 0},  // decode_dense16.cuh
    {"2:4", 8, 8},     // decode_sparse24.cuh; extra: metadata
    {"8:16", 8, 8},    // n:16: decode_of_sixteen.cuh; extra: masks
    {"12:16", 12, 8},
};
inline constexpr int kKindCount = sizeof(kKinds) / sizeof(kKinds[0]);
// Of w8a8: decode_bytes.cuh.
inline constexpr Kind kByteKinds[] = {{"dense", 16, 0}, {"2:4", 8, 8}, {"6:8", 12, 12}};
inline constexpr int kByteKindCount = sizeof(kByteKinds) / sizeof(kByteKinds[0]);
static_assert(kByteKindCount <= kKindCount, "arrays by kind have room for the kinds of any type");
// A mosaic as PATCH has it is of the first two kinds, which have tensors in every packed weight.
inline constexpr int kPatchKinds = 2;
PATCH_BOTH constexpr int kind_count(Weights weights) {
  return weights == Weights::kW8A8 ? kByteKindCount : kKindCount;
}
constexpr const Kind& kind_of(int kind, Weights weights) {
  return weights == Weights::kW8A8 ? kByteKinds[kind] : kKinds[kind];
}
// Bytes of a slab per panel row, in the first and in the second of its two tensors.
constexpr int value_bytes(int kind, Weights weights) {
  return kept_bytes(weights) * kind_of(kind, weights).values + scale_bytes(weights);
}
constexpr int extra_bytes(int kind, Weights weights) { return kind_of(kind, weights).extra; }
constexpr int slab_bytes(int kind, Weights weights) {
  return value_bytes(kind, weights) + extra_bytes(kind, weights);
}

// Numbers of slabs, by kind.
struct SlabCounts {
  int32_t of[kKindCount];
};
// Number of kinds that a kernel must know for these slabs: the first two of the table, or all.  The kernels
// for integers know all.
PATCH_BOTH int kinds_for(const SlabCounts& slabs, Weights weights) {
  if (is_quantised(weights)) return kind_count(weights);
  for (int kind = kPatchKinds; kind < kKindCount; ++kind)
    if (slabs.of[kind] > 0) return kKindCount;
  return kPatchKinds;
}

}  // namespace patch
