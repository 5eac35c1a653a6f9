// Which configuration runs a problem and into how many parts K is cut.  Plain host arithmetic, no CUDA, so
// the plugin asks it on every enqueue and tests ask it on any machine.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/config.h"

namespace patch {

struct Problem {
  int64_t tokens;
  int32_t out_features;
  int32_t in_features;
  int32_t panel_rows;
};

struct Schedule {
  int32_t config;  // index into kConfigs, -1 when none fits panel_rows
  int32_t splits;
};

inline constexpr int kAnyConfig = -1;
inline constexpr int kMaxSplits = 16;
// Splitting fills a device once or twice over and never further, on devices of up to this many SMs; it bounds
// the workspace that the plugin must ask for before it knows the device (ahead-of-time builds).
inline constexpr int kMaxSms = 192;
inline constexpr int kBlocksPerSm = 2;
inline constexpr int kMinSlabsPerSplit = 4;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t panel_count(const Problem& p) { return ceil_div(p.out_features, p.panel_rows); }
inline int64_t tile_count(const Problem& p, const Config& c) {
  return panel_count(p) * ceil_div(p.tokens, c.tokens);
}

inline size_t partial_bytes(const Problem& p, int splits) {
  return splits <= 1 ? 0 : sizeof(float) * splits * p.tokens * panel_count(p) * p.panel_rows;
}

// At least partial_bytes of every schedule chosen for any number of tokens up to p.tokens: splits * tiles
// stays below kBlocksPerSm * kMaxSms, and a tile has at most panel_rows * 128 partial sums.
inline size_t workspace_bound(const Problem& p) {
  size_t tile = 0;
  for (const Config& c : kConfigs)
    if (c.panel_rows == p.panel_rows) tile = std::max(tile, sizeof(float) * c.panel_rows * c.tokens);
  return std::min(partial_bytes(p, kMaxSplits), tile * kBlocksPerSm * kMaxSms);
}

inline int max_splits(const Problem& p, const Config& c, int sms) {
  const int64_t fill = kBlocksPerSm * std::min(sms, kMaxSms) / std::max<int64_t>(tile_count(p, c), 1);
  const int64_t deep = ceil_div(p.in_features, kSlabColumns) / kMinSlabsPerSplit;
  return static_cast<int>(std::clamp<int64_t>(std::min(fill, deep), 1, kMaxSplits));
}

// Time in units of one token times one 64x64 block of W on one SM (some 3 ns on an A100).  A slab costs its
// tokens in the tensor cores plus about 64 tokens' worth of fetching W; a split costs a second launch and its
// traffic. The numbers are from the A100's data sheet, not measured; they order the choices, nothing more.
inline int64_t predicted_cost(const Problem& p, const Config& c, int splits, int sms) {
  constexpr int64_t kFetchTokens = 64, kSecondLaunch = 1000, kPartialsPerUnit = 700;
  const int64_t waves = ceil_div(tile_count(p, c) * splits, std::max(sms, 1));
  const int64_t slabs = ceil_div(ceil_div(p.in_features, kSlabColumns), splits) + c.stages;
  const int64_t multiply = waves * slabs * (c.tokens + kFetchTokens) * (c.panel_rows / 64);
  const int64_t partials = static_cast<int64_t>(partial_bytes(p, splits) / sizeof(float));
  return multiply + (splits > 1 ? kSecondLaunch + partials / kPartialsPerUnit : 0);
}

// `config` fixes the configuration (a tactic); kAnyConfig lets the shape decide.
inline Schedule choose_schedule(const Problem& p, int sms, int config = kAnyConfig) {
  Schedule best{-1, 1};
  int64_t best_cost = 0;
  for (int i = 0; i < kConfigCount; ++i) {
    const Config& c = kConfigs[i];
    if (c.panel_rows != p.panel_rows || (config != kAnyConfig && config != i)) continue;
    for (int splits = 1; splits <= max_splits(p, c, sms); ++splits) {
      const int64_t cost = predicted_cost(p, c, splits, sms);
      if (best.config < 0 || cost < best_cost) best = {i, splits}, best_cost = cost;
    }
  }
  return best;
}

}  // namespace patch
