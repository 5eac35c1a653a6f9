// The configurations of the kernel for many tokens on Hopper (warpgroup_kernel.cuh), as data.
#pragma once
#include "kernels/config.h"

namespace patch {

// A block has 8 warps that multiply, which are two warpgroups, and 4 that copy.  A warpgroup has 64 rows of
// the panel. 256 tokens, because the fill of a slot takes L2 longer than its products take the tensor cores.
inline constexpr Config kWarpgroupConfigs[] = {
    {"hopper-64", Kernel::kWarpgroups, 64, 256, 4, 2, 5, 1, false,
     kPatchKinds},  // 201 KiB, warpgroups of 64x128
    {"hopper-128", Kernel::kWarpgroups, 128, 256, 8, 1, 4, 1, false,
     kPatchKinds},  // 193 KiB, warpgroups of 64x256
    {"gated-hopper-64", Kernel::kWarpgroups, 64, 256, 4, 2, 5, 1, true,
     kPatchKinds},  // 201 KiB, warpgroups of 2 x 64x128
    {"hopper-pair-128", Kernel::kWarpgroupPairs, 128, 256, 8, 1, 4, 1, false, kPatchKinds},  // as hopper-128
};
inline constexpr int kWarpgroupConfigCount = sizeof(kWarpgroupConfigs) / sizeof(kWarpgroupConfigs[0]);

// Configurations by number: first those of config.h, then these.
inline constexpr int kAllConfigCount = kConfigCount + kWarpgroupConfigCount;
constexpr const Config& config_at(int i) {
  return i < kConfigCount ? kConfigs[i] : kWarpgroupConfigs[i - kConfigCount];
}

// The constants that the kernel derives from its configuration, under the names of Geometry.
template <int C>
struct WarpgroupGeometry {
  static constexpr int kPanelRows = kWarpgroupConfigs[C].panel_rows;
  static constexpr int kTokens = kWarpgroupConfigs[C].tokens;
  static constexpr int kFeatureWarps = kWarpgroupConfigs[C].feature_warps;
  static constexpr int kTokenWarps = kWarpgroupConfigs[C].token_warps;
  static constexpr int kStages = kWarpgroupConfigs[C].stages;
  static constexpr bool kGated = kWarpgroupConfigs[C].gated;
  static constexpr int kKinds = kWarpgroupConfigs[C].kinds;
  static constexpr Weights kWeights = kWarpgroupConfigs[C].weights;
  static constexpr int kCluster = cluster_blocks(kWarpgroupConfigs[C]);
  static constexpr int kPanels = panels_per_tile(kGated);
  static constexpr int kThreads = 32 * kFeatureWarps * kTokenWarps;  // that multiply
  static constexpr int kCopyThreads = 128;                           // that copy
  static constexpr int kBlockThreads = kThreads + kCopyThreads;
  // Registers of a thread that multiplies and of one that copies: those of the SM, 168 for each of the block.
  static constexpr int kRegisters = 232, kCopyRegisters = 40;
  static_assert(kRegisters * kThreads + kCopyRegisters * kCopyThreads <= 168 * kBlockThreads);

  static constexpr int kRowBlocks = kPanelRows / 16;
  static constexpr int kWarpRows = kRowBlocks / kFeatureWarps;     // 16-row blocks of one warp
  static constexpr int kWarpTokens = kTokens / (8 * kTokenWarps);  // 8-token blocks of one warp

  static constexpr int kDenseBytes = kPanelRows * kSlabColumns * 2;
  static constexpr int kSparseBytes = kDenseBytes / 2;
  static constexpr int kMetaBytes = kPanelRows * 8;
  static constexpr int kXBytes = kTokens * kSlabColumns * 2;
  static constexpr int kStageBytes = stage_bytes(kWarpgroupConfigs[C]);
  static constexpr int kRingBytes = kStages * kStageBytes;
  static constexpr int kOutputStride = output_stride(kWarpgroupConfigs[C]);
  static constexpr int kSharedBytes = shared_bytes(kWarpgroupConfigs[C]);

  static_assert(kThreads == 256 && kWarpRows == 1 && kFeatureWarps % 4 == 0);
  static_assert(kWarpTokens == 16 || kWarpTokens == 32);  // the products of warpgroup_ptx.cuh
  static_assert(kDenseBytes % 1024 == 0 && kXBytes / kTokenWarps % 1024 == 0);
  static_assert(kTokens * kOutputStride * 2 <= kRingBytes && kSharedBytes <= kSharedMost);
};

}  // namespace patch
