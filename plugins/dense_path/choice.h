// Whether many tokens go by the dense path or by the kernels.  Plain arithmetic, in the units of
// kernels/schedule.h, and from data sheets like all there.
#pragma once
#include <algorithm>
#include <cstdint>

#include "dense_path/pieces.h"

namespace patch {

inline constexpr int64_t kKernelTokens = 1000;  // a further kernel: until its first bytes come, and its end

inline int64_t dense_path_cost(const Problem& p, const Epilogue& e, const Device& device) {
  const int64_t sms = std::max(device.sms, 1), sides = panels_per_tile(p.gated);
  const auto moving = [&](int64_t bytes) { return bytes * device.block_tokens / (kBlockBytes * sms); };
  const int64_t rows = sides * p.out_features, outputs = 2 * p.tokens * p.out_features;
  const int64_t weight = piece_weight_bytes(p, panel_count(p)), plain = is_plain(p, e);
  const int64_t product =
      p.tokens * ceil_div(rows, 64) * slab_columns(p) * device.fma / (device.dense_fma * sms);
  const int64_t inputs = 2 * p.tokens * p.in_features;
  int64_t cost = moving(weight_bytes(p) + weight);
  cost += overlapped(product, moving(weight + inputs + (plain ? outputs : sides * outputs)));
  if (!plain) cost += moving((sides + 1 + e.residual) * outputs);
  return cost + choose_pieces(p, e).count * (plain ? 2 : 3) * kKernelTokens;
}

// Under the tactic of the dense path; TensorRT takes that one where it found the dense path faster for the
// usual number of tokens.  So the kernels must be predicted faster by a third, as they are for few tokens:
// mma.sp's rate on Hopper is the least certain of the figures (docs/performance.md).
inline bool takes_dense_path(const Problem& p, const Epilogue& e, const Device& device) {
  if (device.dense_fma == 0 || p.tokens <= 0 || !suits_dense_path(p)) return false;
  const Schedule s = choose_schedule(p, device);
  return s.config >= 0 &&
         3 * dense_path_cost(p, e, device) <= 4 * predicted_cost(p, kConfigs[s.config], s.parts, device);
}

}  // namespace patch
