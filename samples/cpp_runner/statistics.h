#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace patch_runner {

// Returns the nearest-rank percentile: the smallest value such that at least `share` (0…1] of all values do
// not exceed it.  It is always a measured value.  Returns 0 if there are no values.
inline double percentile(std::vector<float> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(share * static_cast<double>(values.size()) - 1e-9);
  return values[std::min(values.size(), std::max<size_t>(1, static_cast<size_t>(rank))) - 1];
}

// Milliseconds of the prefill and of each decode step of a generation.
struct Times {
  float prefill = 0;
  std::vector<float> steps;
};

}  // namespace patch_runner
