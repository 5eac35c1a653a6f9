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

#include "kernels/kinds.h"

namespace patch {

// The cost of a slab is its bytes per panel row in units of 8, because streams are limited by bytes: 16 for a
// dense one, 9 for 2:4, n + 1 for n:16.  Beginning and ending a tile costs about a quarter of a dense slab;
// this also gives an empty panel a unit.
constexpr int slab_cost(int kind) { return kKinds[kind].values + kKinds[kind].extra; }
inline constexpr int kTileCost = 4;
inline constexpr int kDenseCost = slab_cost(0);
// Parts are at least as wide as any unit, so that the last part has one.
inline constexpr int kMinPartCost = kDenseCost;

inline int64_t slabs_cost(const SlabCounts& slabs) {
  int64_t cost = 0;
  for (int kind = 0; kind < kKindCount; ++kind) cost += int64_t{slabs.of[kind]} * slab_cost(kind);
  return cost;
}
inline int64_t slabs_in_all(const SlabCounts& slabs) {
  int64_t count = 0;
  for (const int32_t own : slabs.of) count += own;
  return count;
}
inline int64_t tile_cost(const SlabCounts& slabs) { return kTileCost + slabs_cost(slabs); }

// Number of slabs of a tile (kind by kind) that start before `offset`, counted from the tile's beginning.
inline int slabs_before(int64_t offset, const SlabCounts& slabs) {
  int64_t before = 0;
  offset -= kTileCost;
  for (int kind = 0; kind < kKindCount && offset > 0; ++kind) {
    const int64_t started = (offset + slab_cost(kind) - 1) / slab_cost(kind);
    before += started < slabs.of[kind] ? started : slabs.of[kind];
    offset -= int64_t{slabs.of[kind]} * slab_cost(kind);
  }
  return static_cast<int>(before);
}

// The least start that belongs to `part`.
inline int64_t part_start(int part, int64_t total, int parts) { return (part * total + parts - 1) / parts; }

}  // namespace patch
