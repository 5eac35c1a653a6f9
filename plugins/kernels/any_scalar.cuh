// A 16-bit type that is known when a kernel runs.  Kernels of w8a8 multiply integers, whatever the type of X
// is.
#pragma once
#include <type_traits>

#include "kernels/arguments.h"
#include "kernels/ptx.cuh"

namespace patch {

class AnyScalar {
 public:
  PATCH_DEVICE explicit AnyScalar(Scalar scalar) : half_(scalar == Scalar::kHalf) {}
  PATCH_DEVICE float widen(uint16_t v) const { return half_ ? Half::widen(v) : BFloat16::widen(v); }
  PATCH_DEVICE uint32_t narrow(float lo, float hi) const {
    return half_ ? Half::narrow(lo, hi) : BFloat16::narrow(lo, hi);
  }
  PATCH_DEVICE uint32_t infinity() const { return half_ ? Half::kInfinity : BFloat16::kInfinity; }

 private:
  bool half_;
};

// T, with which conversions are called.
template <class T>
PATCH_DEVICE T scalar_of(Scalar scalar) {
  if constexpr (std::is_same_v<T, AnyScalar>)
    return AnyScalar(scalar);
  else
    return T();
}

}  // namespace patch
