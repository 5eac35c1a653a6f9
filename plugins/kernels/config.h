// The kernel configurations, as data.  A new configuration is one more line of the table.
#pragma once
#include <cstdint>

#include "kernels/kinds.h"

namespace patch {

enum class Kernel : int8_t {
  kStream,  // blocks take equal shares of all slabs, and add up tiles that they share (stream_kernel.cuh)
  kTile,    // a block takes a tile of Y (tile_kernel.cuh)
};

// NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): the rows of the table name all of them.
struct Config {
  const char* name;
  Kernel kernel;
  int panel_rows;     // rows of W a block multiplies: 64 or 128, as the weight was packed
  int tokens;         // rows of X a block multiplies
  int feature_warps;  // warps along the panel's rows
  int token_warps;    // warps along the tokens
  int stages;         // slots of the cp.async ring
  int blocks_per_sm;  // number of blocks per SM that a stream is cut for, if its table has room (schedule.h)
  uint8_t kinds;      // kinds of slabs that it multiplies: the first so many of the table
  Weights weights = Weights::kSixteenBits;
};

// Shared memory is the limit: a slot holds one slab (at most 128 B per panel row) and the X tile beside it
// (128 B per token, of w8a8 64 B).  sm_86 and sm_89 give a block 99 KiB, so a configuration with two blocks
// per SM stays below 49 KiB.  A configuration above 99 KiB would be for sm_80 (163 KiB) and sm_90 (227 KiB),
// and be skipped on other devices.  Tile kernels have two slots: their slabs take long enough for the next
// one to arrive, and two blocks fit on an SM, one of which multiplies while the other waits at its barrier:
// those of 64x64 warps on sm_80 and sm_90, the smaller ones everywhere.
inline constexpr Config kConfigs[] = {
    {"decode-64", Kernel::kStream, 64, 16, 4, 1, 4, 2, kPatchKinds},    // 40 KiB, 4 warps of 16x16
    {"mid-64", Kernel::kStream, 64, 64, 2, 2, 3, 2, kPatchKinds},       // 48 KiB, 4 warps of 32x32
    {"prefill-64", Kernel::kTile, 64, 128, 2, 2, 2, 1, kPatchKinds},    // 48 KiB, 4 warps of 32x64
    {"decode-128", Kernel::kStream, 128, 16, 4, 1, 4, 1, kPatchKinds},  // 72 KiB, 4 warps of 32x16
    {"mid-128", Kernel::kStream, 128, 64, 4, 2, 4, 1, kPatchKinds},     // 96 KiB, 8 warps of 32x32
    {"prefill-128", Kernel::kTile, 128, 128, 2, 2, 2, 1, kPatchKinds},  // 64 KiB, 4 warps of 64x64
    // Streams for problems with few tiles of 128 tokens per SM, whose last wave would leave most SMs idle.
    {"broad-64", Kernel::kStream, 64, 128, 2, 2, 4, 1, kPatchKinds},    // 96 KiB, 4 warps of 32x64
    {"broad-128", Kernel::kStream, 128, 128, 2, 4, 3, 1, kPatchKinds},  // 96 KiB, 8 warps of 64x32
    // Streams for mosaics with n:16 slabs too; what is too many tokens for them is for the dense path.  They
    // are kernels of their own, because every kind is a loop with its own registers.  Their panels have 64
    // rows: warps of four row blocks have no registers for the values of all of them, and in decode two
    // blocks of 64 rows hide more of the unpacking than one of 128.
    {"all-decode-64", Kernel::kStream, 64, 16, 4, 1, 4, 2, kKindCount},
    {"all-mid-64", Kernel::kStream, 64, 64, 2, 2, 3, 2, kKindCount},
    // The same for integers.  Their slabs are smaller, so a ring has more slots, for as many bytes in flight.
    {"int8-decode-64", Kernel::kStream, 64, 16, 4, 1, 6, 2, kKindCount, Weights::kInt8},  // 36 KiB
    {"int8-mid-64", Kernel::kStream, 64, 64, 2, 2, 4, 2, kKindCount, Weights::kInt8},     // 48 KiB
    // Slabs of int4 are so small that instructions count for more than bytes.  In decode two warps take a
    // slab, with two row blocks each, so that addresses and copies cost half as many as with four warps; four
    // blocks on an SM have as many warps as two of four, and as many bytes in flight.
    {"int4-decode-64", Kernel::kStream, 64, 16, 2, 1, 5, 4, kKindCount, Weights::kInt4},  // 21 KiB
    {"int4-mid-64", Kernel::kStream, 64, 64, 2, 2, 4, 2, kKindCount, Weights::kInt4},     // 42 KiB
    // Slabs of w8a8 take half the room, so rings are longer.  Its products take half the time, less than a
    // copy from L2, so tile kernels have three or four slots.
    {"w8a8-decode-64", Kernel::kStream, 64, 16, 4, 1, 8, 2, kByteKindCount, Weights::kW8A8},    // 40 KiB
    {"w8a8-mid-64", Kernel::kStream, 64, 64, 2, 2, 6, 2, kByteKindCount, Weights::kW8A8},       // 48 KiB
    {"w8a8-prefill-64", Kernel::kTile, 64, 128, 2, 2, 4, 1, kByteKindCount, Weights::kW8A8},    // 48 KiB
    {"w8a8-decode-128", Kernel::kStream, 128, 16, 4, 1, 8, 1, kByteKindCount, Weights::kW8A8},  // 72 KiB
    {"w8a8-mid-128", Kernel::kStream, 128, 64, 2, 2, 4, 2, kByteKindCount, Weights::kW8A8},     // 48 KiB
    {"w8a8-prefill-128", Kernel::kTile, 128, 128, 2, 2, 3, 1, kByteKindCount, Weights::kW8A8},  // 48 KiB
    // A stream for few tiles, as broad-128.
    {"w8a8-broad-128", Kernel::kStream, 128, 128, 2, 2, 3, 2, kByteKindCount, Weights::kW8A8},  // 48 KiB
};
inline constexpr int kConfigCount = sizeof(kConfigs) / sizeof(kConfigs[0]);
// The first ones are for the kinds of PATCH, the next ones for all: those of 16-bit weights, of int8, of
// int4. Those of w8a8 come last.
constexpr int count_patch_configs() {
  int count = 0;
  while (count < kConfigCount && kConfigs[count].kinds == kPatchKinds) ++count;
  return count;
}
inline constexpr int kPatchConfigCount = count_patch_configs();
constexpr int first_config_of(Weights weights) {
  int first = 0;
  while (first < kConfigCount && kConfigs[first].weights != weights) ++first;
  return first;
}
inline constexpr int kFirstInt8 = first_config_of(Weights::kInt8);
inline constexpr int kFirstInt4 = first_config_of(Weights::kInt4);
inline constexpr int kFirstW8A8 = first_config_of(Weights::kW8A8);
static_assert(kPatchConfigCount < kFirstInt8 && kFirstInt8 < kFirstInt4 && kFirstInt4 < kFirstW8A8 &&
              kFirstW8A8 < kConfigCount);

inline constexpr int kSlabColumns = 64;   // K covered by one slab
inline constexpr int kTilesPerGroup = 8;  // token tiles that walk over the panels together
// cudaDevAttrMaxSharedMemoryPerBlockOptin: sm_86, sm_89 and sm_120 have the least of all devices, sm_90 the
// most.
inline constexpr int kSharedEverywhere = 99 * 1024;
inline constexpr int kSharedMost = 227 * 1024;

// Bytes that a slot has for a slab: those of the largest one.
constexpr int slab_room(const Config& c) {
  int most = 0;
  for (int kind = 0; kind < c.kinds; ++kind)
    if (most < slab_bytes(kind, c.weights)) most = slab_bytes(kind, c.weights);
  return c.panel_rows * most;
}
constexpr int x_tile_bytes(const Config& c) { return c.tokens * kSlabColumns * input_bytes(c.weights); }
constexpr int stage_bytes(const Config& c) { return slab_room(c) + x_tile_bytes(c); }
// Values per row of the output tile in shared memory.  The 16 bytes of padding avoid bank conflicts.
constexpr int output_stride(const Config& c) { return c.panel_rows + 8; }
constexpr int output_bytes(const Config& c) { return c.tokens * output_stride(c) * 2; }
// Shared memory of a block.  A tile kernel puts its output where the ring was.  A stream writes from
// registers, while its ring goes on.
constexpr int shared_bytes(const Config& c) {
  const int ring = c.stages * stage_bytes(c), output = output_bytes(c);
  return c.kernel == Kernel::kTile && output > ring ? output : ring;
}

// All constants that a kernel derives from its configuration.
template <int C>
struct Geometry {
  static constexpr Kernel kKernel = kConfigs[C].kernel;
  static constexpr int kPanelRows = kConfigs[C].panel_rows;
  static constexpr int kTokens = kConfigs[C].tokens;
  static constexpr int kFeatureWarps = kConfigs[C].feature_warps;
  static constexpr int kTokenWarps = kConfigs[C].token_warps;
  static constexpr int kStages = kConfigs[C].stages;
  static constexpr int kBlocksPerSm = kConfigs[C].blocks_per_sm;
  static constexpr int kKinds = kConfigs[C].kinds;
  static constexpr Weights kWeights = kConfigs[C].weights;
  static constexpr int kThreads = 32 * kFeatureWarps * kTokenWarps;

  static constexpr int kRowBlocks = kPanelRows / 16;               // 16-row blocks of the panel
  static constexpr int kWarpRows = kRowBlocks / kFeatureWarps;     // 16-row blocks of one warp
  static constexpr int kWarpTokens = kTokens / (8 * kTokenWarps);  // 8-token blocks of one warp

  static constexpr int kSlabBytes = slab_room(kConfigs[C]);
  static constexpr int kXBytes = x_tile_bytes(kConfigs[C]);
  static constexpr int kStageBytes = stage_bytes(kConfigs[C]);
  static constexpr int kRingBytes = kStages * kStageBytes;

  static constexpr int kTileSums = kTokens * kPanelRows;
  // Blocks that share an SM's registers; 0: ptxas decides, and gives decoders of integers too few.  In a tile
  // kernel a thread needs no more than 168 registers for 64 sums, and may have all 255 for more.
  static constexpr int kRegisterBlocks = kKernel == Kernel::kTile
                                             ? 65536 / (kThreads * (kTileSums > 64 * kThreads ? 256 : 168))
                                         : is_quantised(kWeights) && kWeights != Weights::kW8A8 ? kBlocksPerSm
                                                                                                : 0;

  static constexpr int kOutputStride = output_stride(kConfigs[C]);
  static constexpr int kSharedBytes = shared_bytes(kConfigs[C]);

  static_assert(kPanelRows == 64 || kPanelRows == 128);
  static_assert(kWarpRows * kFeatureWarps * 16 == kPanelRows && kWarpTokens * kTokenWarps * 8 == kTokens);
  static_assert(kStages >= 2 && kStageBytes == kSlabBytes + kXBytes && kSharedBytes <= kSharedMost);
  // An SM has 1 KiB more than a block may request, and each block takes 1 KiB more than it requests.
  static_assert(kBlocksPerSm == 1 || kBlocksPerSm * (kSharedBytes + 1024) <= kSharedEverywhere + 1024);
  // Copy loops have constant trip counts, so all threads must copy the same number of chunks.  Those of a
  // slab that it does not have are predicated off, and so are those of a tile of w8a8 for fewer threads than
  // the block has.  A slot's X begins at a whole row of 128 bytes.
  static_assert(kSlabBytes % 128 == 0 && (kXBytes % (16 * kThreads) == 0 || kWeights == Weights::kW8A8));
  static_assert(kPanelRows == 64 || !is_quantised(kWeights) || kWeights == Weights::kW8A8);
};

}  // namespace patch
