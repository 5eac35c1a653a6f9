// The attributes of a PatchLinear node that are numbers.
#pragma once
#include <cstdint>

namespace patch {

struct Attributes {
  int32_t in_features = 0;
  int32_t out_features = 0;
  int32_t panel_rows = 0;
  int32_t gated = 0;       // 1: the weight holds a gate and an up, see kernels/arguments.h
  int32_t residual = 0;    // 1: the last input is a residual
  int32_t activation = 0;  // number of an Activation
  int32_t weights = 0;     // number of one of kWeightTypeNames
};

}  // namespace patch
