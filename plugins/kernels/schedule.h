// Chooses the configuration that runs a problem, and the number of parts that its slabs are cut into.  Plain
// host arithmetic without CUDA, so tests run it on any machine.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/config.h"
#include "kernels/work.h"

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
  int32_t gated;  // 0 or 1; if 1, the slabs are those of gate and up together
  Weights weights;
};

// Properties of a device that a schedule depends on.
struct Device {
  int32_t sms;
  int32_t shared_bytes;  // most shared memory of a block
  int64_t l2_bytes;
  int32_t block_tokens;  // see block_tokens
  int32_t fma;           // dense multiply-adds per SM and clock
  int32_t dense_fma;     // the same with wgmma, as cuBLASLt multiplies; 0 if there is none
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

// Time in which a 64x64 block of W comes from DRAM at an SM's share of the bandwidth, in units of one token
// times such a block (see below): 150 on an A100, 200 on an A6000, 400 on an L4.  bandwidth: bytes per second
// of the device; clock: Hz; fma: dense multiply-adds per SM and clock.
inline int32_t block_tokens(double bandwidth, int sms, double clock, int fma) {
  return static_cast<int32_t>(64 * 64 * 2 / (bandwidth / sms) * clock * fma / (64 * 64));
}
// block_tokens of a device that does not report its memory.
inline constexpr int32_t kUsualBlockTokens = 200;
// fp16 with fp32 sums, by compute capability.  GeForce cards are half as fast, but can't be told from others.
inline constexpr double fma_per_clock(int major, int minor) {
  if (major == 8) return minor == 0 ? 1024 : 512;
  return major == 12 ? 512 : 0.62 * 2048;  // mma.sync reaches this share of the rate of wgmma
}
// The rate of wgmma, which only Hopper has.
inline constexpr int32_t dense_fma_per_clock(int major) { return major == 9 ? 2048 : 0; }

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t panel_count(const Problem& p) { return ceil_div(p.out_features, p.panel_rows); }
inline int64_t token_tiles(const Problem& p, const Config& c) { return ceil_div(p.tokens, c.tokens); }
inline int64_t tile_count(const Problem& p, const Config& c) { return panel_count(p) * token_tiles(p, c); }
inline int64_t total_cost(const Problem& p, const Config& c) {
  return token_tiles(p, c) * (panel_count(p) * kTileCost + slabs_cost(p.slabs, p.weights));
}

inline int64_t sums_per_tile(const Config& c) {
  return static_cast<int64_t>(c.tokens) * c.panel_rows * panels_per_tile(c.gated);
}
// Returns true if a configuration is for weights that are packed like this one's.
inline bool fits(const Config& c, const Problem& p) {
  return c.panel_rows == p.panel_rows && c.gated == (p.gated != 0) && c.weights == p.weights &&
         c.kinds == kinds_for(p.slabs, p.weights);
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

// Costs are times in units of one token times one dense 64x64 block of W on one SM (some 3 ns on an A100).
// The numbers come from data sheets and are not measured; they only serve to rank the choices.
inline constexpr int64_t kBlockBytes = 64 * 64 * 2;
inline constexpr int64_t kL2Tokens = 64;  // a 64x64 block from L2
inline constexpr int64_t kByteRate = 2;   // products of int8 in the time of one of 16 bits
inline constexpr int64_t kTurnTokens =
    8;  // overhead of a turn of the ring, per 64 rows (simulated: issue.py)
inline constexpr int64_t kUnpackClocks =
    90;                                   // to unpack n:16, per 64 rows and token warp (simulated: issue.py)
inline constexpr int64_t kFillTurns = 3;  // turns until the first slab has arrived
inline constexpr int64_t kAddUp = 300;    // a fence and a count
inline constexpr int64_t kSumsPerUnit = 700;   // partial sums read per unit
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

// Cost of a turn of the ring for one slab: the products, or the bytes through shared memory (128 per clock on
// every device), whichever is larger.  Each feature warp reads X and each token warp reads W.
inline int64_t turn_cost(const Config& c, int kind, const Device& device) {
  const bool sparse = kind == 1, of_sixteen = kind >= kPatchKinds && c.weights != Weights::kW8A8;
  const int64_t height = c.panel_rows / 64, x = x_tile_bytes(c);
  const int64_t weights = int64_t{c.panel_rows} * slab_bytes(kind, c.weights);
  const int64_t bytes = weights * (1 + c.token_warps) + x * (1 + c.feature_warps);
  int64_t tokens = std::max<int64_t>(c.tokens, kL2Tokens) * height / (sparse ? 2 : 1);
  // So fast that L2 bounds the reads of X, too.
  if (c.weights == Weights::kW8A8) {
    // Of a dense slab's products.  Streams multiply the middle windows of 6:8 by an instruction that no card
    // is known to run at the full rate.
    const int64_t six_of_eight = c.kernel == Kernel::kStream ? 5 : 3;
    const int64_t quarters = kind == 0 ? 4 : sparse ? 2 : six_of_eight;
    tokens =
        std::max(c.tokens * height * quarters / (4 * kByteRate), (weights + x) * kL2Tokens / kBlockBytes);
  }
  return std::max(tokens, bytes / 128 * device.fma / (64 * 64)) + kTurnTokens * height +
         (of_sixteen ? kUnpackClocks * height * c.token_warps * device.fma / (64 * 64) : 0);
}

// Cost of two activities that overlap: the longer one, plus a share of the other for their interference.
inline Cost overlapped(Cost a, Cost b) { return std::max(a, b) + std::min(a, b) / 4; }

// Predicts the cost of a launch from the products of the busiest SM and the reads of W and X from DRAM, which
// overlap.  0 tokens cost nothing: there are no tiles to divide by.
inline Cost predicted_cost(const Problem& p, const Config& c, int parts, const Device& device) {
  if (p.tokens == 0) return 0;
  const int64_t sms = std::max(device.sms, 1), kept = device.l2_bytes / 2;
  const bool tile = c.kernel != Kernel::kStream;
  // If only some SMs are busy, each still gets little more than its share of the bandwidth.
  const int64_t busy = std::min<int64_t>(tile ? tile_count(p, c) : parts, sms);
  const Cost moved =
      Cost{weight_bytes(p)} * weight_reads(p, c, parts, kept) + x_bytes(p, c, static_cast<int>(sms), kept);
  const Cost dram = moved * device.block_tokens / (kBlockBytes * busy);
  const int64_t turn = turn_cost(c, 0, device), tiles = tile_count(p, c);
  int64_t turns = 0;
  for (int kind = 0; kind < c.kinds; ++kind) turns += p.slabs.of[kind] * turn_cost(c, kind, device);
  if (tile)
    return overlapped(Cost{ceil_div(tiles, sms)} * (turns / panel_count(p) + kFillTurns * turn), dram);
  const Cost ends = Cost{tiles} * kTileCost * turn / dense_cost(c.weights);
  const Cost work = Cost{token_tiles(p, c)} * turns + ends;
  // With few tokens an SM reaches its rate only with as many blocks as the problem has for it.  Loops with
  // more products have fewer waits to hide.
  const int64_t all = c.tokens > 16 ? parts : std::max(parts, max_parts(p, c, device.sms));
  const Cost slots = Cost{std::min(all, sms)} * parts;
  const Cost multiply = (work * all + slots - 1) / slots + kFillTurns * turn;
  // The block that ends last reads the sums of all blocks that share its tile.
  const int64_t shared = std::min<int64_t>(parts, ceil_div(parts, tile_count(p, c)) + 1);
  const int64_t sums = shared * sums_per_tile(c);
  return overlapped(multiply, dram) + (parts > 1 ? kAddUp + sums / kSumsPerUnit : 0);
}

// Returns true if a stream's tiles fit into its table of parts, and the positions of its units, times its
// parts, into int64.
inline bool can_be_cut(const Problem& p, const Config& c) {
  if (c.kernel != Kernel::kStream) return true;
  return tile_count(p, c) <= kMostTiles && total_cost(p, c) <= INT64_MAX / (kMostParts + 1);
}

// Chooses the cheapest schedule.  `config` fixes the configuration (benchmarks do); kAnyConfig considers all.
// With a negative number of tokens no configuration fits.
inline Schedule choose_schedule(const Problem& p, const Device& device, int config = kAnyConfig) {
  Schedule best{-1, 1};
  if (p.tokens < 0) return best;
  Cost best_cost = 0;
  for (int i = 0; i < kConfigCount; ++i) {
    const Config& c = kConfigs[i];
    if (!fits(c, p) || (config != kAnyConfig && config != i)) continue;
    if (shared_bytes(c) > device.shared_bytes || !can_be_cut(p, c)) continue;
    const int sms = device.sms, most = max_parts(p, c, sms);
    // Only multiples of the number of tiles or of SMs: other numbers leave some of them with less work.
    for (const int64_t parts :
         {int64_t{1}, int64_t{most}, int64_t{std::min(most, sms)}, std::min<int64_t>(most, tile_count(p, c)),
          std::min<int64_t>(most, 2 * tile_count(p, c)), std::min<int64_t>(most, 4 * tile_count(p, c))}) {
      const Cost cost = predicted_cost(p, c, static_cast<int>(parts), device);
      if (best.config < 0 || cost < best_cost) best = {i, static_cast<int32_t>(parts)}, best_cost = cost;
    }
  }
  return best;
}

}  // namespace patch
