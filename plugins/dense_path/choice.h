// Decides if a linear with many tokens takes the dense path or the kernels.  Plain arithmetic in clocks,
// as in kernels/schedule.h.
#pragma once
#include <algorithm>
#include <cstdint>

#include "dense_path/pieces.h"

namespace patch {

inline constexpr int64_t kByteRate = 2;  // products of int8 in the time of one of 16 bits
// One more kernel: its launch, and its first bytes from DRAM.
#ifndef PATCH_KERNEL_CLOCKS  // tests send small products down the dense path
#define PATCH_KERNEL_CLOCKS 2300
#endif
inline constexpr int64_t kKernelClocks = PATCH_KERNEL_CLOCKS;

inline Cost dense_path_clocks(const Problem& p, const Epilogue& e, const Device& device) {
  const int64_t sms = std::max(device.sms, 1);
  const auto moving = [&](Cost bytes) { return bytes * kDramClocks / (sms * std::max(device.dram, 1)); };
  const int64_t rows = int64_t{p.out_features} << p.gated, outputs = 2 * p.tokens * p.out_features;
  const int64_t weight = piece_weight_bytes(p, panel_count(p)), plain = is_plain(p, e);
  const int64_t rate = p.weights == Weights::kW8A8 ? kByteRate : 1;
  const Cost product =
      Cost{p.tokens} * rows * slab_columns(p) * kSlabColumns / (sms * std::max(device.dense_fma, 1) * rate);
  const int64_t inputs = input_bytes(p.weights) * p.tokens * p.in_features;
  const int64_t products = plain ? outputs : product_bytes(p.weights) * p.tokens * rows;
  Cost cost = moving(weight_bytes(p) + weight);
  cost += overlapped(product, moving(weight + inputs + products));
  if (!plain) cost += moving(products + (1 + e.residual) * outputs);
  return cost + (choose_pieces(p, e).count * (plain ? 2 : 3) - 1) * kKernelClocks;
}

// Returns true if a dense product may be faster than the kernels on this device: where dense products have
// instructions of their own, and everywhere for slabs of n:16 and of integers, which the kernels unpack once
// for every 64 tokens.  Slabs of w8a8 are multiplied as they are.
inline bool may_gain_densely(const SlabCounts& slabs, Weights weights, const Device& device) {
  const bool unpacked = weights != Weights::kW8A8 && kinds_for(slabs, weights) > kPatchKinds;
  const bool hopper = device.sm / 10 == 9;  // whose library multiplies by wgmma
  return hopper || (device.sms > 0 && unpacked);
}

// Asked under the dense path's tactic only, which TensorRT chose because the dense path was faster for the
// usual number of tokens.  The kernels are therefore taken only if they are predicted to be faster by a
// third, as they are for few tokens.  (The rate of mma.sp on Hopper is the least certain number:
// docs/explanation/performance.md.)
inline bool takes_dense_path(const Problem& p, const Epilogue& e, const Device& device) {
  if (!may_gain_densely(p.slabs, p.weights, device) || p.tokens <= 0 || !suits_dense_path(p)) return false;
  const Schedule s = choose_schedule(p, device);
  return s.config >= 0 &&
         3 * dense_path_clocks(p, e, device) <= 4 * predicted_clocks(p, s.config, s.parts, device);
}

}  // namespace patch
