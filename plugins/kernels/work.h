// Divides the slabs of a launch among its blocks by cost.  Plain arithmetic, on the host and on the device.
//
//   tiles of Y, panel by panel and token tile by token tile; a tile is a row of units:
//
//      | begin | dense slab | dense slab | 2:4 | 2:4 | begin | dense slab | 2:4 | ...
//      0       4            20           36    45    54      58           74          <- start of each unit
//
//   A unit belongs to part  floor(start * parts / total).  Parts are wider than any unit (see kMinPartCost),
//   so each part between the first and the last part of a tile holds a slab of it.  The number of parts that
//   share a tile therefore follows from arithmetic alone, without a table or a counting pass.
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
inline constexpr int kMinPartCost = kDenseCost;  // a narrower part might hold no unit

PATCH_BOTH int64_t slabs_cost(int64_t dense, int64_t sparse) {
  return dense * kDenseCost + sparse * kSparseCost;
}
PATCH_BOTH int64_t tile_cost(int64_t dense, int64_t sparse) { return kTileCost + slabs_cost(dense, sparse); }

// Start of a tile's last unit, from the tile's beginning.
PATCH_BOTH int64_t last_unit(int64_t dense, int64_t sparse) {
  if (sparse > 0) return tile_cost(dense, sparse - 1);
  return dense > 0 ? tile_cost(dense - 1, 0) : 0;
}

// Number of slabs of a tile (dense first) that start before `offset`, counted from the tile's beginning.
PATCH_BOTH int slabs_before(int64_t offset, int dense, int sparse) {
  offset -= kTileCost;
  if (offset <= 0) return 0;
  const int64_t whole = (offset + kDenseCost - 1) / kDenseCost;
  if (whole <= dense) return static_cast<int>(whole);
  const int64_t rest = (offset - static_cast<int64_t>(dense) * kDenseCost + kSparseCost - 1) / kSparseCost;
  return dense + static_cast<int>(rest < sparse ? rest : sparse);
}

// The run of slabs that two neighbouring pointers of an index delimit.  An index is data of an engine file,
// and the host can't look at it before a launch.  So whatever the pointers say, the run lies inside the
// `slabs` slabs that exist; valid pointers are taken as they are.  The price, with that of the other bounds
// in the kernels: some 10 instructions per panel; none per slab in a tile kernel, and 0 to 10 of some 200 in
// a stream (sm_90).
struct Run {
  int first, count;
};
// `value`, or `most` if it is negative or larger.
PATCH_BOTH int32_t at_most(int32_t value, int32_t most) {
  return static_cast<uint32_t>(value) < static_cast<uint32_t>(most) ? value : most;
}
// Number of slabs from `first` to the pointer `end`.
PATCH_BOTH int32_t slabs_until(int32_t end, int32_t first, int32_t most) {
  return at_most(static_cast<int32_t>(static_cast<uint32_t>(end) - static_cast<uint32_t>(first)), most);
}
PATCH_BOTH Run run_between(int32_t begin, int32_t end, int32_t slabs) {
  const int32_t first = at_most(begin, slabs);
  return {first, slabs_until(end, first, slabs - first)};
}

PATCH_BOTH int part_of(int64_t start, int64_t total, int parts) {
  return static_cast<int>(start * parts / total);
}
// The least start that belongs to `part`.
PATCH_BOTH int64_t part_begin(int part, int64_t total, int parts) {
  return (part * total + parts - 1) / parts;
}

}  // namespace patch
