#pragma once

namespace patch {

// The oldest virtual architecture with early launches (ptx.cuh): code for older ones does not wait.
inline constexpr int kFirstThatWaits = 90;

}  // namespace patch
