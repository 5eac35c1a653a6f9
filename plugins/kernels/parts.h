// The table of a stream's parts: where each block begins.  The host makes it when shapes change, and it is a
// kernel parameter, so that a block searches nothing and a CUDA graph keeps the table that it was captured
// with.
//
//   words   | part 0 | part 1 | ... | part `parts`: end of the last one | the index's pointers, if they fit
//             two words each
//
// All arguments of a kernel have at most 4096 bytes (32764 since CUDA 12.1, but drivers before R530 refuse
// them). The parts always fit, because a stream has at most kMostParts.  The pointers (kernels/slabs.cuh) of
// most linears fit too; a linear with more panels reads them from device memory.
#pragma once
#include <algorithm>
#include <cstdint>

#include "kernels/arguments.h"
#include "kernels/schedule.h"

namespace patch {

// The first slab that a part multiplies.  Everything before it, tile by tile, belongs to earlier parts.
struct PartBegin {
  int32_t tile;    // panel * token tiles + token tile
  int32_t slab;    // of the tile
  int32_t column;  // K / 64 of that slab; 0 if the tile has none
};

inline constexpr int kColumnBits = 18, kSlabBits = 20, kTileBits = 26, kLowColumnBits = 12;
static_assert(kColumnBits + kSlabBits + kTileBits == 32 * kPartWords);
static_assert(int64_t{kMostFeatures} <= int64_t{kSlabColumns} << kColumnBits, "columns fit");
static_assert(2 * ceil_div(kMostFeatures, kSlabColumns) < int64_t{1} << kSlabBits, "slabs of a tile fit");
static_assert(kMostTiles < int64_t{1} << kTileBits, "tiles fit");
static_assert(kPartWords * (kMostParts + 1) <= kTableWords, "parts fit");

PATCH_BOTH void write_part(uint32_t* words, const PartBegin& p) {
  words[0] = static_cast<uint32_t>(p.tile) << (kColumnBits - kLowColumnBits) |
             static_cast<uint32_t>(p.column) >> kLowColumnBits;
  words[1] = static_cast<uint32_t>(p.slab) << kLowColumnBits |
             (static_cast<uint32_t>(p.column) & ((1u << kLowColumnBits) - 1));
}
PATCH_BOTH int32_t part_tile(const PartTable& t, int part) {
  return static_cast<int32_t>(t.words[kPartWords * part] >> (kColumnBits - kLowColumnBits));
}
PATCH_BOTH int32_t part_slab(const PartTable& t, int part) {
  return static_cast<int32_t>(t.words[kPartWords * part + 1] >> kLowColumnBits);
}
PATCH_BOTH int32_t part_column(const PartTable& t, int part) {
  const uint32_t high = t.words[kPartWords * part] & ((1u << (kColumnBits - kLowColumnBits)) - 1);
  return static_cast<int32_t>(high << kLowColumnBits |
                              (t.words[kPartWords * part + 1] & ((1u << kLowColumnBits) - 1)));
}

// Cuts a stream of configuration c.  a: its sizes and parts; index: of W for a device, on the host.
inline void make_parts(PartTable* table, const LinearArguments& a, const int32_t* index, const Config& c) {
  const int32_t pointers = a.panels + 1;
  const int32_t* columns = index + c.kinds * pointers;
  const auto slabs_of = [&](int32_t panel) {
    SlabCounts own{};
    for (int kind = 0; kind < c.kinds; ++kind) {
      const int32_t* at = index + kind * pointers + panel;
      own.of[kind] = at[1] - at[0];
    }
    return own;
  };
  const int64_t tiles = ceil_div(a.tokens, c.tokens);
  const int64_t total = tiles * (int64_t{a.panels} * kTileCost + slabs_cost(a.counts(), c.weights));
  int32_t panel = 0;
  int64_t begin = 0;  // start of the panel
  for (int32_t part = 0; part < a.parts; ++part) {
    const int64_t start = part_start(part, total, a.parts);
    SlabCounts slabs{};
    int64_t cost = 0;
    for (;; ++panel) {
      slabs = slabs_of(panel), cost = tile_cost(slabs, c.weights);
      if (start < begin + tiles * cost) break;
      begin += tiles * cost;
    }
    const int64_t tile = (start - begin) / cost, offset = start - begin - tile * cost;
    PartBegin p{static_cast<int32_t>(panel * tiles + tile), slabs_before(offset, slabs, c.weights), 0};
    // All units of the tile may start before the part does.
    if (offset > 0 && p.slab == slabs_in_all(slabs)) {
      ++p.tile, p.slab = 0;
      slabs = slabs_of(static_cast<int32_t>(p.tile / tiles));
    }
    const auto own = static_cast<int32_t>(p.tile / tiles);
    int32_t slab = p.slab, kind = 0;
    while (kind < c.kinds && slab >= slabs.of[kind]) slab -= slabs.of[kind++];
    if (kind < c.kinds) p.column = columns[a.slabs[kind].before + index[kind * pointers + own] + slab];
    write_part(table->words + kPartWords * part, p);
  }
  write_part(table->words + kPartWords * a.parts, {static_cast<int32_t>(a.panels * tiles), 0, 0});
  table->pointers = pointers_fit(a.parts, c.kinds, pointers) ? kPartWords * (a.parts + 1) : -1;
  if (table->pointers >= 0) std::copy_n(index, c.kinds * pointers, table->words + table->pointers);
}

}  // namespace patch
