// What work costs, and where the parts of equal cost begin into which a stream's slabs are cut.  Plain
// arithmetic.
//
//   tiles of Y, panel by panel and token tile by token tile; a tile is a row of units:
//
//      | begin | dense slab | dense slab | 2:4 | 2:4 | begin | dense slab | 2:4 | ...
//      0       4            20           36    45    54      58           74          <- start of each unit
//
//   A unit belongs to part  floor(start * parts / total).
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define PATCH_BOTH __host__ __device__ __forceinline__
#else
#define PATCH_BOTH inline
#endif

namespace patch {

// The cost of a slab is its bytes per panel row (128 and 72) in units of 8, because streams are limited by
// bytes. Beginning and ending a tile costs about a quarter of a dense slab; this also gives an empty panel a
// unit.
inline constexpr int kTileCost = 4;
inline constexpr int kDenseCost = 16;
inline constexpr int kSparseCost = 9;
// Parts are at least as wide as any unit, so that the last part has one.
inline constexpr int kMinPartCost = kDenseCost;

inline int64_t slabs_cost(int64_t dense, int64_t sparse) { return dense * kDenseCost + sparse * kSparseCost; }
inline int64_t tile_cost(int64_t dense, int64_t sparse) { return kTileCost + slabs_cost(dense, sparse); }

// Number of slabs of a tile (dense first) that start before `offset`, counted from the tile's beginning.
inline int slabs_before(int64_t offset, int dense, int sparse) {
  offset -= kTileCost;
  if (offset <= 0) return 0;
  const int64_t whole = (offset + kDenseCost - 1) / kDenseCost;
  if (whole <= dense) return static_cast<int>(whole);
  const int64_t rest = (offset - static_cast<int64_t>(dense) * kDenseCost + kSparseCost - 1) / kSparseCost;
  return dense + static_cast<int>(rest < sparse ? rest : sparse);
}

// The least start that belongs to `part`.
inline int64_t part_start(int part, int64_t total, int parts) { return (part * total + parts - 1) / parts; }

}  // namespace patch
