// The table of kinds of slabs, by number.  Numbers and names are those of masklearn/masks/kinds/table.py.
#pragma once
#include <cstdint>

#include "kernels/weights.h"

namespace patch {

struct Kind {
  const char* name;
  // A slab's bytes in the first and in the second of its two tensors, in units of 8 bytes per panel row, if
  // its values have 16 bits.  `values` is also the number of values that are kept of 16.
  int values, extra;
};

inline constexpr Kind kKinds[] = {
    {"dense", 16, 0},  // decode_dense16.cuh
    {"2:4", 8, 1},     // decode_sparse24.cuh; extra: metadata
    {"8:16", 8, 1},    // n:16: decode_of_sixteen.cuh; extra: masks
    {"12:16", 12, 1}, {"10:16", 10, 1},
};
inline constexpr int kKindCount = sizeof(kKinds) / sizeof(kKinds[0]);
// A mosaic as PATCH has it is of the first two kinds, which have tensors in every packed weight.
inline constexpr int kPatchKinds = 2;
inline constexpr int kUnitBytes = 8;
// Bytes of a slab per panel row, in the first and in the second of its two tensors.
constexpr int value_bytes(int kind, Weights weights) {
  return kept_bytes(weights) * kKinds[kind].values + scale_bytes(weights);
}
constexpr int extra_bytes(int kind) { return kUnitBytes * kKinds[kind].extra; }
constexpr int slab_bytes(int kind, Weights weights) { return value_bytes(kind, weights) + extra_bytes(kind); }

// Numbers of slabs, by kind.
struct SlabCounts {
  int32_t of[kKindCount];
};
// Number of kinds that a kernel must know for these slabs: the first two of the table, or all.  Slabs of w8a8
// are of those two; the kernels for other integers know all.
PATCH_BOTH int kinds_for(const SlabCounts& slabs, Weights weights) {
  if (weights == Weights::kW8A8) return kPatchKinds;
  if (is_quantised(weights)) return kKindCount;
  for (int kind = kPatchKinds; kind < kKindCount; ++kind)
    if (slabs.of[kind] > 0) return kKindCount;
  return kPatchKinds;
}

}  // namespace patch
