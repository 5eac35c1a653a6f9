// Chooses the configuration that runs a problem, and the number of parts that its slabs are cut into.  Plain
// host arithmetic without CUDA, so tests run it on any machine.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>

#include "kernels/arguments.h"
#include "kernels/turns.h"

namespace patch {

// Limits of a problem.  Within them the int64 arithmetic here and on the device does not overflow.
inline constexpr int32_t kMostFeatures = 1 << 24;
inline constexpr int64_t kMostTokens = INT32_MAX;
inline constexpr int64_t kMostSlabs = INT32_MAX / 2;

struct Problem {
  int64_t tokens;
  int32_t out_features;
  int32_t in_features;
  int32_t panel_rows;
  SlabCounts slabs;
  int32_t gated;  // 0 or 1; if 1, W has as many rows of a gate as of an up
  Weights weights;
};

// Properties of a device that a schedule depends on.
struct Device {
  int32_t sms;
  int32_t shared_bytes;  // most shared memory of a block
  int64_t l2_bytes;
  int32_t dram;       // see dram_bytes
  int32_t sm;         // 86 for compute capability 8.6
  int32_t geforce;    // 1: tensor cores sum in fp32 at half the rate of other cards of the architecture
  int32_t dense_fma;  // multiply-adds of 16 bits per SM and clock by cuBLASLt
};

struct Schedule {
  int32_t config;  // an index of kConfigs, -1 if none fits
  int32_t parts;   // parts of a stream; 1 for a tile kernel
};

inline constexpr int kAnyConfig = -1;
// A stream is cut for at most kMaxSms SMs, and into parts of at least kMinSlabsPerPart dense slabs.  The two
// limits bound the workspace, which the plugin must request before it knows the device (ahead-of-time
// builds).
inline constexpr int kMaxSms = 192;
inline constexpr int kMinSlabsPerPart = 2;
constexpr bool parts_are_wide_enough(Weights weights) {
  return kMinSlabsPerPart * dense_cost(weights) >= widest_unit(weights);
}
static_assert(parts_are_wide_enough(Weights::kSixteenBits) && parts_are_wide_enough(Weights::kInt8) &&
              parts_are_wide_enough(Weights::kW8A8) && parts_are_wide_enough(Weights::kInt4));
inline constexpr int kMostParts = 459;                // as many as a table has room for (parts.h)
inline constexpr int64_t kMostTiles = (1 << 26) - 1;  // of a stream: the table of parts has 26 bits for them

// Bytes that an SM gets from DRAM in kDramClocks clocks.  bandwidth: bytes per second of the device; clock:
// Hz.
inline constexpr int64_t kDramClocks = 1024;
inline int32_t dram_bytes(double bandwidth, int sms, double clock) {
  return static_cast<int32_t>(bandwidth / sms / clock * kBandwidthPercent / 100 * kDramClocks);
}
// The same of a device that does not report its memory: an A6000's.
inline constexpr int32_t kUsualDramBytes = 4369;

// Returns the clocks of the newest architecture up to a device's, or the first row if the device is older.
inline const Turns& turns_of(const Device& device) {
  const Turns* best = kTurns;
  for (const Turns& row : kTurns)
    if (row.sm <= device.sm && (row.sm > best->sm || row.geforce == device.geforce)) best = &row;
  return *best;
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t panel_count(const Problem& p) {
  return ceil_div(int64_t{p.out_features} << p.gated, p.panel_rows);
}
inline int64_t token_tiles(const Problem& p, const Config& c) { return ceil_div(p.tokens, c.tokens); }
inline int64_t tile_count(const Problem& p, const Config& c) { return panel_count(p) * token_tiles(p, c); }
inline int64_t total_cost(const Problem& p, const Config& c) {
  return token_tiles(p, c) * (panel_count(p) * kTileCost + slabs_cost(p.slabs, p.weights));
}

inline int64_t sums_per_tile(const Config& c) { return int64_t{c.tokens} * c.panel_rows; }
// Returns true if a configuration is for weights that are packed like this one's.
inline bool fits(const Config& c, const Problem& p) {
  return c.panel_rows == p.panel_rows && c.weights == p.weights && c.kinds == kinds_for(p.slabs, p.weights);
}

// Each part has two slots for sums (see add_up) and one counter.
inline size_t partial_bytes(const Config& c, int parts) {
  return parts <= 1 ? 0 : sizeof(float) * 2 * parts * sums_per_tile(c);
}
inline constexpr size_t kCounterBytes = sizeof(int32_t) * kMostParts;

// Returns the blocks of a stream on each SM of a device: fewer than the configuration has where the table of
// parts has no room for them.  sms: at most kMaxSms.
inline int blocks_on(const Config& c, int sms) { return std::min(c.blocks_per_sm, kMostParts / sms); }
// Parts of a stream: at most `fill`, and none of them short.
inline int parts_within(const Problem& p, const Config& c, int64_t fill) {
  if (c.kernel != Kernel::kStream) return 1;
  const int64_t deep = total_cost(p, c) / (kMinSlabsPerPart * dense_cost(c.weights));
  return static_cast<int>(std::clamp<int64_t>(std::min(fill, deep), 1, INT32_MAX));
}
inline int max_parts(const Problem& p, const Config& c, int sms) {
  const int used = std::clamp(sms, 1, kMaxSms);
  return parts_within(p, c, int64_t{blocks_on(c, used)} * used);
}

// Bytes of rounded X and its scales, which lie in the workspace before the partial sums.
inline size_t rounded_bytes(const Problem& p) {
  if (p.weights != Weights::kW8A8) return 0;
  const int64_t bytes = p.tokens * (padded_columns(p.in_features) + int64_t{sizeof(float)});
  return static_cast<size_t>(ceil_div(bytes, 256) * 256);
}

// Upper bound of the workspace over the schedules chosen for any number of tokens up to p.tokens.
inline size_t workspace_bound(const Problem& p) {
  size_t bound = 0;
  for (const Config& c : kConfigs)
    if (fits(c, p))
      bound = std::max(bound,
                       partial_bytes(c, parts_within(p, c, std::min(c.blocks_per_sm * kMaxSms, kMostParts))));
  return rounded_bytes(p) + bound;
}

// The largest problem's cost has some 80 bits.
using Cost = __int128;

inline constexpr int64_t kMaxTokenTiles = 64;  // streams with more token tiles are taken to share nothing

inline int64_t weight_bytes(const Problem& p) {
  int64_t bytes = 0;
  for (int kind = 0; kind < kind_count(p.weights); ++kind)
    bytes += int64_t{p.slabs.of[kind]} * p.panel_rows * slab_bytes(kind, p.weights);
  return bytes;
}

// Returns the number of times that W is read from DRAM.  A token tile reads a slab again if L2 has evicted it
// since another token tile of the panel read it.  kept: bytes that L2 keeps.
inline int64_t weight_reads(const Problem& p, const Config& c, int parts, int64_t kept) {
  const int64_t bytes = weight_bytes(p), tokens = token_tiles(p, c), tiles = tile_count(p, c);
  if (tokens == 1 || bytes <= kept) return 1;
  if (c.kernel != Kernel::kStream) return ceil_div(tokens, kTilesPerGroup);
  if (tokens > kMaxTokenTiles) return parts % tiles == 0 ? 1 : tokens;
  // All parts run at the same time, and together they read W `tokens` times.  Measured in 1 / tiles of a
  // part's length, each token tile starts `parts` after the one before it, modulo `tiles`.  Two token tiles
  // do not share W if more bytes than L2 keeps are read between them.
  std::array<int64_t, kMaxTokenTiles> starts{};
  for (int64_t j = 0; j < tokens; ++j) starts[j] = j * parts % tiles;
  std::sort(starts.begin(), starts.begin() + tokens);
  int64_t reads = 1;
  for (int64_t j = 1; j < tokens; ++j)
    reads += Cost{starts[j] - starts[j - 1]} * tokens * bytes > Cost{kept} * tiles;
  return reads;
}

// Returns the bytes of X that are read from DRAM.  The panels of a stream read anywhere in X, and share what
// fits into L2.  Tiles that run at the same time share the X of their group.
inline Cost x_bytes(const Problem& p, const Config& c, int sms, int64_t kept) {
  const int64_t bytes = input_bytes(p.weights) * p.tokens * p.in_features, panels = panel_count(p);
  if (c.kernel == Kernel::kStream) return bytes + Cost{panels - 1} * std::max<int64_t>(0, bytes - kept);
  const int64_t tokens = token_tiles(p, c), groups = ceil_div(tokens, kTilesPerGroup);
  if (bytes <= Cost{kept} * groups) return bytes;
  const int64_t at_once = std::max<int64_t>(1, sms / std::min<int64_t>(tokens, kTilesPerGroup));
  return Cost{bytes} * ceil_div(panels, at_once);
}

// Returns the pieces of tiles that several parts share, whose sums are added up.  Parts begin at parts - 1
// places, of which gcd - 1 lie between tiles; each of the others leaves one more piece.
inline int64_t pieces_of(int64_t parts, int64_t tiles) {
  const int64_t cuts = parts - std::gcd(parts, tiles);
  return cuts + std::min(cuts, tiles);
}

// Returns the clocks in which all SMs read so many bytes from DRAM, of which `in_flight` are under way at a
// time (Little's law).
inline Cost from_dram(Cost bytes, Cost in_flight, const Device& device) {
  const int64_t pace = int64_t{std::max(device.sms, 1)} * std::max(device.dram, 1);
  return std::max(bytes * kDramClocks / pace, bytes * kLoadedLatency / std::max(in_flight, Cost{1}));
}

// Clocks of two activities that overlap: of the longer one, and a share of the other's for their
// interference.
inline Cost overlapped(Cost a, Cost b) { return std::max(a, b) + std::min(a, b) / kInterference; }

// Predicts the clocks of a launch, less what all configurations take: its edges, and the slabs of the busiest
// SM and the bytes from DRAM, which overlap.  No tokens take none: there are no tiles to divide by.
inline Cost predicted_clocks(const Problem& p, int config, int parts, const Device& device) {
  if (p.tokens == 0) return 0;
  const Config& c = kConfigs[config];
  const Turns& turns = turns_of(device);
  const ConfigTurns& own = turns.of[config];
  const bool stream = c.kernel == Kernel::kStream;
  const int64_t sms = std::max(device.sms, 1), kept = device.l2_bytes / 2, tiles = tile_count(p, c);
  // Parts or tiles of the busiest SM.  If it can hold more blocks, each keeps the pace of a block alone.
  const int64_t busiest = ceil_div(stream ? parts : tiles, sms);
  Cost slabs = 0;
  for (int kind = 0; kind < c.kinds; ++kind)
    slabs += Cost{p.slabs.of[kind]} * std::max<int64_t>(own.clocks[kind], own.alone[kind] / busiest);
  const Cost moved = Cost{weight_bytes(p)} * weight_reads(p, c, parts, kept) +
                     x_bytes(p, c, static_cast<int>(sms), kept) + Cost{2} * p.tokens * p.out_features;
  const int64_t stored = 2 * output_bytes(c) / kSharedPace;
  if (!stream) {
    const Cost edges =
        Cost{busiest} * (3 * kL2Latency + kDramLatency + stored) / std::min<int64_t>(own.blocks, busiest);
    const Cost in_flight = Cost{std::min(tiles, sms * own.blocks)} * (c.stages - 1) * stage_bytes(c);
    return edges + overlapped(busiest * slabs / panel_count(p), from_dram(moved, in_flight, device));
  }
  const int64_t pieces = pieces_of(parts, tiles);
  Cost computed = (token_tiles(p, c) * slabs + Cost{tiles} * stored) * busiest / parts;
  // The block that ends last reads the sums of all blocks that share its tile, one after another.
  if (pieces > 0) computed += Cost{8} * pieces * sums_per_tile(c) * busiest / (int64_t{parts} * turns.l2);
  Cost edges = kL2Latency * (pieces > 0 ? 5 + ceil_div(parts, tiles) : 2);
  if (!pointers_fit(parts, c.kinds, panel_count(p) + 1)) edges += kDramLatency;
  const Cost in_flight = Cost{std::min<int64_t>(parts, sms * own.blocks)} * (c.stages - 1) * weight_bytes(p) /
                         std::max<int64_t>(1, slabs_in_all(p.slabs));
  return edges + overlapped(computed, from_dram(moved, in_flight, device));
}

// Returns true if a stream's tiles fit into its table of parts, and the positions of its units, times its
// parts, into int64.
inline bool can_be_cut(const Problem& p, const Config& c) {
  if (c.kernel != Kernel::kStream) return true;
  return tile_count(p, c) <= kMostTiles && total_cost(p, c) <= INT64_MAX / (kMostParts + 1);
}

// Chooses the fastest schedule.  `config` fixes the configuration (benchmarks do); kAnyConfig considers all.
// With a negative number of tokens no configuration fits.
inline Schedule choose_schedule(const Problem& p, const Device& device, int config = kAnyConfig) {
  Schedule best{-1, 1};
  if (p.tokens < 0) return best;
  Cost best_clocks = 0;
  for (int i = 0; i < kConfigCount; ++i) {
    const Config& c = kConfigs[i];
    if (!fits(c, p) || (config != kAnyConfig && config != i)) continue;
    if (shared_bytes(c) > device.shared_bytes || !can_be_cut(p, c)) continue;
    const int sms = device.sms, most = max_parts(p, c, sms);
    // Only multiples of the number of tiles or of SMs: other numbers leave some of them with less work.
    for (const int64_t parts :
         {int64_t{1}, int64_t{most}, int64_t{std::min(most, sms)}, std::min<int64_t>(most, tile_count(p, c)),
          std::min<int64_t>(most, 2 * tile_count(p, c)), std::min<int64_t>(most, 4 * tile_count(p, c))}) {
      const Cost clocks = predicted_clocks(p, i, static_cast<int>(parts), device);
      if (best.config < 0 || clocks < best_clocks)
        best = {i, static_cast<int32_t>(parts)}, best_clocks = clocks;
    }
  }
  return best;
}

}  // namespace patch
