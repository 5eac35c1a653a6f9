// Arguments of the kernels before and after a dense product (see dense_path/dense_path.h), in plain types.
#pragma once
#include <cstdint>

#include "kernels/arguments.h"

namespace patch {

inline constexpr int kUnpackThreads = 256;
inline constexpr int kUnpackSlabs = 4;  // number of a panel's slab columns that a block writes
inline constexpr int kActivateThreads = 256;

// Writes `panels` panels of W as plain rows.
struct UnpackArguments {
  Slabs slabs[kKindCount];  // as in LinearArguments
  const float* scales;      // as in LinearArguments
  const int32_t* index;
  uint16_t* weight;     // [panels * panel_rows, columns * 64], of w8a8 int8; aligned to 16 bytes
  int32_t kinds;        // kinds in the index
  int32_t panel_rows;   // 64 or 128
  int32_t all_panels;   // panels of W
  int32_t first_panel;  // first one to write
  int32_t panels;
  int32_t columns;  // slabs along K
  Weights weights;
  Scalar scalar;  // type of `weight`; 16-bit weights are copied whatever it is

  PATCH_BOTH int32_t groups() const { return (columns - 1) / kUnpackSlabs + 1; }
  PATCH_BOTH int64_t blocks() const { return static_cast<int64_t>(panels) * groups(); }
};

// y = activation(z + bias) + residual for `columns` features, in fp32 from 16-bit z, rounded once.  If gated,
// y = activation(z + bias) * (up + up's bias) + residual, of 8 columns of z and the 8 behind them.  With
// scales, z are int32 sums, which are multiplied by the scale of the row of W, then by that of the token.
// Pointers are aligned to 16 bytes, sizes to 8 values.
struct ActivateArguments {
  const void* z;             // [tokens, stride]
  const uint16_t* bias;      // at the first feature; the up's is out_features after it; or null
  const uint16_t* residual;  // at the first feature, or null
  uint16_t* y;               // at the first feature
  const float* scales;       // of w8a8: as in LinearArguments, at the first panel; or null
  const float* token_scales;
  int32_t tokens;
  int32_t columns;  // of y
  int32_t stride;
  int32_t out_features;  // values per token of y and of the residual
  int32_t gated;         // 0 or 1
  Activation activation;

  PATCH_BOTH int32_t blocks_per_token() const { return (columns / 8 - 1) / kActivateThreads + 1; }
  PATCH_BOTH int64_t blocks() const { return static_cast<int64_t>(tokens) * blocks_per_token(); }
};

}  // namespace patch
