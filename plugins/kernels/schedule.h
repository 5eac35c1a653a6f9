// Which configuration runs a problem, and into how many parts its slabs are cut.  Plain host arithmetic, no
// CUDA, so the plugin asks it on every enqueue and tests ask it on any machine.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/config.h"
#include "kernels/work.h"

namespace patch {

struct Problem {
  int64_t tokens;
  int32_t out_features;
  int32_t in_features;
  int32_t panel_rows;
  int32_t dense_slabs;
  int32_t sparse_slabs;
};

struct Schedule {
  int32_t config;  // index into kConfigs, -1 when none fits panel_rows
  int32_t parts;   // of a stream; 1 for a tile kernel
};

inline constexpr int kAnyConfig = -1;
// A stream is cut for at most this many SMs, and into parts of at least so many dense slabs: it bounds the
// workspace that the plugin must ask for before it knows the device (ahead-of-time builds).
inline constexpr int kMaxSms = 192;
inline constexpr int kMinSlabsPerPart = 2;
static_assert(kMinSlabsPerPart * kDenseCost >= kMinPartCost);

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t panel_count(const Problem& p) { return ceil_div(p.out_features, p.panel_rows); }
inline int64_t token_tiles(const Problem& p, const Config& c) { return ceil_div(p.tokens, c.tokens); }
inline int64_t tile_count(const Problem& p, const Config& c) { return panel_count(p) * token_tiles(p, c); }
inline int64_t total_cost(const Problem& p, const Config& c) {
  return token_tiles(p, c) * (panel_count(p) * kTileCost + slabs_cost(p.dense_slabs, p.sparse_slabs));
}

// Two slots for every part (see add_up), and a counter for it.
inline size_t partial_bytes(const Config& c, int parts) {
  return parts <= 1 ? 0 : sizeof(float) * 2 * parts * c.tokens * c.panel_rows;
}
inline constexpr size_t kCounterBytes = sizeof(int32_t) * kMaxSms * 2;

inline int max_parts(const Problem& p, const Config& c, int sms) {
  if (c.kernel == Kernel::kTile) return 1;
  const int64_t fill = static_cast<int64_t>(c.blocks_per_sm) * std::clamp(sms, 1, kMaxSms);
  const int64_t deep = total_cost(p, c) / (kMinSlabsPerPart * kDenseCost);
  return static_cast<int>(std::clamp<int64_t>(std::min(fill, deep), 1, INT32_MAX));
}

// At least partial_bytes of every schedule chosen for any number of tokens up to p.tokens.
inline size_t workspace_bound(const Problem& p) {
  size_t bound = 0;
  for (const Config& c : kConfigs)
    if (c.panel_rows == p.panel_rows) bound = std::max(bound, partial_bytes(c, max_parts(p, c, kMaxSms)));
  return bound;
}

// Time in units of one token times one 64x64 block of W on one SM (some 3 ns on an A100).  A slab costs its
// tokens in the tensor cores plus about 64 tokens' worth of fetching W; adding up costs a fence and the
// traffic of the partial sums.  The numbers are from the A100's data sheet, not measured; they order the
// choices, nothing more.
inline int64_t predicted_cost(const Problem& p, const Config& c, int parts, int sms) {
  constexpr int64_t kFetchTokens = 64, kAddUp = 300, kPartialsPerUnit = 700;
  const int64_t slab = (c.tokens + kFetchTokens) * (c.panel_rows / 64);
  if (c.kernel == Kernel::kTile) {
    const int64_t slabs = slabs_cost(p.dense_slabs, p.sparse_slabs) / (kDenseCost * panel_count(p));
    return ceil_div(tile_count(p, c), std::max(sms, 1)) * (slabs + c.stages) * slab;
  }
  const int64_t busy = std::min(parts, std::max(sms, 1));
  const int64_t multiply = (ceil_div(total_cost(p, c), busy) / kDenseCost + c.stages) * slab;
  // The block that ends last reads the sums of all that share its tile.
  const int64_t shared = std::min<int64_t>(parts, ceil_div(parts, tile_count(p, c)) + 1);
  const int64_t sums = shared * c.tokens * c.panel_rows;
  return multiply + (parts > 1 ? kAddUp + sums / kPartialsPerUnit : 0);
}

// `config` fixes the configuration (a tactic); kAnyConfig lets the shape decide.
inline Schedule choose_schedule(const Problem& p, int sms, int config = kAnyConfig) {
  Schedule best{-1, 1};
  int64_t best_cost = 0;
  for (int i = 0; i < kConfigCount; ++i) {
    const Config& c = kConfigs[i];
    if (c.panel_rows != p.panel_rows || (config != kAnyConfig && config != i)) continue;
    const int most = max_parts(p, c, sms);
    // Whole multiples of the tiles or of the SMs: what lies between leaves some of them with less to do.
    for (const int64_t parts :
         {int64_t{1}, int64_t{most}, int64_t{std::min(most, sms)}, std::min<int64_t>(most, tile_count(p, c)),
          std::min<int64_t>(most, 2 * tile_count(p, c)), std::min<int64_t>(most, 4 * tile_count(p, c))}) {
      const int64_t cost = predicted_cost(p, c, static_cast<int>(parts), sms);
      if (best.config < 0 || cost < best_cost) best = {i, static_cast<int32_t>(parts)}, best_cost = cost;
    }
  }
  return best;
}

}  // namespace patch
