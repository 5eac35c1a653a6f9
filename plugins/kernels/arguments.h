// Arguments of a PatchLinear launch, in plain types, shared by the CUDA launcher, the host emulation and the
// plugin.
#pragma once
#include <cstdint>

#include "kernels/work.h"

namespace patch {

enum class Scalar : int32_t { kHalf = 0, kBFloat16 = 1 };

// kGelu: x * Phi(x); kGeluTanh: its tanh approximation (Hendrycks & Gimpel, arXiv 1606.08415); kSilu:
// x * sigmoid(x).
enum class Activation : int32_t { kNone = 0, kGelu = 1, kGeluTanh = 2, kSilu = 3 };
// Names of the activations in ONNX, by number.
inline constexpr const char* kActivationNames[] = {"", "gelu", "gelu_tanh", "silu"};
inline constexpr int kActivationCount = sizeof(kActivationNames) / sizeof(kActivationNames[0]);

// The slabs of one kind.
struct Slabs {
  const uint16_t* values;  // [count, value_bytes / 2]; of integers, these are the bytes of words
  const uint32_t* extra;   // [count, extra_bytes / 4], or null for dense ones
  int32_t count;
  int32_t before;                    // slabs of the kinds before this one
  int32_t value_bytes, extra_bytes;  // of a slab
};

// Z = X W^T + bias, in fp32, and Y[tokens, out] = activation(Z) + residual, rounded once. Gated: Z has a gate
// and an up of `out` columns each, a multiple of 8, and Y = activation(gate) * up + residual.  W then has 8
// rows of the gate, the 8 rows of the up for the same features, the next 8 of the gate, and so on; bias holds
// the gate's values, then the up's.  All pointers are device pointers.
struct LinearArguments {
  const uint16_t* x;        // [tokens, in], contiguous
  Slabs slabs[kKindCount];  // of each kind
  // Of int8 and w8a8: [panels * panel_rows], in the order of W's rows; or null.
  const float* scales;
  const int32_t* index;      // as kernels/index.h writes it for a device.  The kernels trust it
  const uint16_t* bias;      // [out], gated [2 * out], or null
  const uint16_t* residual;  // [tokens, out], contiguous, or null
  uint16_t* y;               // [tokens, out], contiguous
  int8_t* rounded;           // of w8a8: X as integers, [tokens, padded_columns(in)], written by the launch
  float* token_scales;       // of w8a8: [tokens], written by the launch
  float* partials;           // [2 * parts, tokens of a block * panel_rows]; used by a stream with parts > 1.
                             // Those of w8a8 are int32
  int32_t* counters;         // [parts]; used by the same, 0 before and after a launch
  int32_t tokens;
  int32_t out_features;
  int32_t in_features;  // a multiple of 4
  int32_t panels;       // of W
  int32_t parts;        // blocks that share a stream's slabs
  int32_t x_vector;     // values of X one copy moves: 8 or 4 (see choose_vectors)
  int32_t y_vector;     // values of Y one store moves: 8, 4, 2 or 1
  Activation activation;
  int32_t gated;  // 0 or 1
  Scalar scalar;  // type of X; the launch writes it

  SlabCounts counts() const {
    SlabCounts all{};
    for (int kind = 0; kind < kKindCount; ++kind) all.of[kind] = slabs[kind].count;
    return all;
  }
  // Sets the sizes in `slabs`.
  void set_slabs(const SlabCounts& all, int32_t panel_rows, Weights weights) {
    int32_t before = 0;
    for (int kind = 0; kind < kind_count(weights); before += all.of[kind++]) {
      Slabs& own = slabs[kind];
      own.count = all.of[kind], own.before = before;
      own.value_bytes = panel_rows * value_bytes(kind, weights);
      own.extra_bytes = panel_rows * extra_bytes(kind, weights);
    }
  }
  PATCH_BOTH int32_t token_tiles(int tokens_per_tile) const { return (tokens - 1) / tokens_per_tile + 1; }
};

// The begin of each part, and the index's pointers where they fit (kernels/parts.h).
inline constexpr int kTableWords = 920;
inline constexpr int kPartWords = 2;  // of a part
// Returns true if a table of `parts` has room for the pointers of each kind too.
constexpr bool pointers_fit(int64_t parts, int64_t kinds, int64_t pointers) {
  return kPartWords * (parts + 1) + kinds * pointers <= kTableWords;
}
struct PartTable {
  int32_t pointers;  // word at which the pointers lie, or -1: they are in device memory only
  uint32_t words[kTableWords];
};
// What a stream takes.
struct StreamArguments {
  LinearArguments linear;
  PartTable table;
};
static_assert(sizeof(StreamArguments) <= 4096, "kernel parameters");

// Chooses x_vector and y_vector.  Rows of X and Y are not padded, so their alignment follows from in_features
// and out_features.  Returns false if a pointer has less alignment than the kernels need.
inline bool choose_vectors(LinearArguments* a) {
  const auto aligned = [](const void* p, uintptr_t bytes) {
    return reinterpret_cast<uintptr_t>(p) % bytes == 0;
  };
  a->x_vector = a->in_features % 8 == 0 && aligned(a->x, 16) ? 8 : 4;
  a->y_vector = 8;
  // The residual is read in pairs if Y is written in vectors of 2 or more, so it must be aligned to a pair.
  while (a->y_vector > 1 &&
         (a->out_features % a->y_vector != 0 || !aligned(a->y, 2 * a->y_vector) || !aligned(a->residual, 4)))
    a->y_vector /= 2;
  for (const Slabs& own : a->slabs)
    if (!aligned(own.values, 16) || !aligned(own.extra, 16)) return false;
  if (!aligned(a->rounded, 16) || !aligned(a->token_scales, 4)) return false;
  return a->in_features % 4 == 0 && aligned(a->x, 8) && aligned(a->y, 2) && aligned(a->index, 4) &&
         aligned(a->bias, 2) && aligned(a->residual, 2) && aligned(a->scales, 4) &&
         (a->parts <= 1 || (aligned(a->partials, 16) && aligned(a->counters, 4)));
}

}  // namespace patch
