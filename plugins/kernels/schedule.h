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
  int32_t gated;  // 0 or 1; the slabs are then the gate's and the up's
};

struct Schedule {
  int32_t config;  // index into kConfigs, -1 when none fits
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

inline int64_t sums_per_tile(const Config& c) {
  return static_cast<int64_t>(c.tokens) * c.panel_rows * panels_per_tile(c.gated);
}
// Whether a configuration is for weights packed like this one.
inline bool fits(const Config& c, int32_t panel_rows, bool gated) {
  return c.panel_rows == panel_rows && c.gated == gated;
}

// Two slots for every part (see add_up), and a counter for it.
inline size_t partial_bytes(const Config& c, int parts) {
  return parts <= 1 ? 0 : sizeof(float) * 2 * parts * sums_per_tile(c);
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
    if (fits(c, p.panel_rows, p.gated)) bound = std::max(bound, partial_bytes(c, max_parts(p, c, kMaxSms)));
  return bound;
}

// Time in units of one token times one dense 64x64 block of W on one SM (some 3 ns on an A100).  The numbers
// are from the data sheets of the A100 and the A6000, not measured; they order the choices, nothing more.
inline constexpr int64_t kDramTokens = 200;  // such a block from DRAM, at an SM's share of the bandwidth,
inline constexpr int64_t kL2Tokens = 64;     // from L2,
inline constexpr int64_t kTurnTokens = 16;   // and a turn of the ring
inline constexpr int64_t kAddUp = 300;       // a fence and a count
inline constexpr int64_t kSumsPerUnit = 700;
inline constexpr int64_t kStaysInL2 = int64_t{4} << 20;  // bytes of W that every device keeps there

// How often W comes from DRAM: once for all token tiles that walk over it side by side.  The blocks of a
// stream do where each tile has as many of them as any other; else a panel is read again for each of its
// token tiles.
inline int64_t weight_reads(const Problem& p, const Config& c, int parts) {
  const int64_t bytes = slabs_cost(p.dense_slabs, p.sparse_slabs) * 8 * p.panel_rows;
  if (bytes <= kStaysInL2) return 1;
  if (c.kernel == Kernel::kTile) return ceil_div(token_tiles(p, c), kTilesPerGroup);
  return parts % tile_count(p, c) == 0 ? 1 : token_tiles(p, c);
}

// The busiest SM's products, or W's way from DRAM, whichever takes longer.
inline int64_t predicted_cost(const Problem& p, const Config& c, int parts, int sms) {
  sms = std::max(sms, 1);
  const int64_t height = c.panel_rows / 64, slabs = slabs_cost(p.dense_slabs, p.sparse_slabs);
  const int64_t turn = (std::max<int64_t>(c.tokens, kL2Tokens) + kTurnTokens) * height;
  const bool tile = c.kernel == Kernel::kTile;
  // An SM that others leave the bandwidth to can't take much more of it.
  const int64_t busy = std::min<int64_t>(tile ? tile_count(p, c) : parts, sms);
  const int64_t dram = slabs * weight_reads(p, c, parts) * kDramTokens * height / (kDenseCost * busy);
  if (tile) {
    const int64_t waves = ceil_div(tile_count(p, c), sms);
    return std::max(waves * (slabs / (kDenseCost * panel_count(p)) + c.stages) * turn, dram);
  }
  const int64_t multiply = (ceil_div(total_cost(p, c), busy) / kDenseCost + c.stages) * turn;
  // The block that ends last reads the sums of all that share its tile.
  const int64_t shared = std::min<int64_t>(parts, ceil_div(parts, tile_count(p, c)) + 1);
  const int64_t sums = shared * sums_per_tile(c);
  return std::max(multiply, dram) + (parts > 1 ? kAddUp + sums / kSumsPerUnit : 0);
}

// `config` fixes the configuration (a tactic); kAnyConfig lets the shape decide.
inline Schedule choose_schedule(const Problem& p, int sms, int config = kAnyConfig) {
  Schedule best{-1, 1};
  int64_t best_cost = 0;
  for (int i = 0; i < kConfigCount; ++i) {
    const Config& c = kConfigs[i];
    if (!fits(c, p.panel_rows, p.gated) || (config != kAnyConfig && config != i)) continue;
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
