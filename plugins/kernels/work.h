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

// The cost of a slab is its bytes per panel row in units of 8, because streams are limited by bytes: with
// weights of 16 bits 16 for a dense one, 9 for 2:4, n + 1 for n:16.  Beginning and ending a tile costs about
// a quarter of such a dense slab; this also gives an empty panel a unit.
inline constexpr int kUnitBytes = 8;
constexpr int slab_cost(int kind, Weights weights) {
  return (slab_bytes(kind, weights) + kUnitBytes - 1) / kUnitBytes;
}
constexpr int dense_cost(Weights weights) { return slab_cost(0, weights); }
inline constexpr int kTileCost = 4;
// Parts are at least as wide as any unit, so that the last part has one.
constexpr int widest_unit(Weights weights) {
  int widest = kTileCost;
  for (int kind = 0; kind < kind_count(weights); ++kind)
    if (widest < slab_cost(kind, weights)) widest = slab_cost(kind, weights);
  return widest;
}

inline int64_t slabs_cost(const SlabCounts& slabs, Weights weights) {
  int64_t cost = 0;
  for (int kind = 0; kind < kind_count(weights); ++kind)
    cost += int64_t{slabs.of[kind]} * slab_cost(kind, weights);
  return cost;
}
inline int64_t slabs_in_all(const SlabCounts& slabs) {
  int64_t count = 0;
  for (const int32_t own : slabs.of) count += own;
  return count;
}
inline int64_t tile_cost(const SlabCounts& slabs, Weights weights) {
  return kTileCost + slabs_cost(slabs, weights);
}

// Number of slabs of a tile (kind by kind) that start before `offset`, counted from the tile's beginning.
inline int slabs_before(int64_t offset, const SlabCounts& slabs, Weights weights) {
  int64_t before = 0;
  offset -= kTileCost;
  for (int kind = 0; kind < kind_count(weights) && offset > 0; ++kind) {
    const int64_t cost = slab_cost(kind, weights), started = (offset + cost - 1) / cost;
    before += started < slabs.of[kind] ? started : slabs.of[kind];
    offset -= slabs.of[kind] * cost;
  }
  return static_cast<int>(before);
}

// The least start that belongs to `part`.
inline int64_t part_start(int part, int64_t total, int parts) { return (part * total + parts - 1) / parts; }

}  // namespace patch
