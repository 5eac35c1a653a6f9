// Decodes slabs of which n of 16 weights are kept (8:16, 12:16): unpacks them to the fragments of
// mma.m16n8k16.  16-bit values are moved, whatever their type.
//
// The 16 weights are those that one lane holds of one row: 4 columns of each step (position p, step p / 4):
//
//   lane 4g + t, row g (low) and row g + 8 (high)    step 0            step 1    step 2     step 3
//                                        columns     2t 2t+1 2t+8 2t+9   +16       +32        +48
//                                        positions    0   1    2    3   4 .. 7   8 .. 11   12 .. 15
//
// So no lane needs the values of another one.  In memory, each plane [16-row block][lane: 32]:
//
//                     8 values of the low row; then a plane of 8 values of the high row    16 bytes a lane
//   12:16             4 values of the low row and 4 of the high row                        16 bytes a lane
//   second tensor:    a word of two masks, the low half that of the low row; bit p: position p is kept
//
// A row's kept values come in order of their positions, from the first plane on.
//
// Unpacking a step of a row.  Its 4 positions take at most 4 values, which follow each other: a window of two
// registers.  Counted from the first value or from the last one, whichever edge is nearer, it lies
//
//   steps 0, 3    at the edge
//   steps 1, 2    as far from it as the step at that edge has values: 0 to 4 (bytes are selected twice)
//
// Positions that are not kept become zero.  All of this depends on 4 bits of a mask.  So there is a table of
// 32 entries, half of them for each edge, of which every lane holds one; a shuffle looks it up.
#pragma once
#include "kernels/units.cuh"

namespace patch {

// The table: three words of each lane.  Lanes 0 .. 15 are for the first 8 positions, 16 .. 31 for the last 8;
// bit i of the lane's number says whether position i of a step is kept.
struct KeptTable {
  // Selectors of select_bytes.  Low half: from the two values at the edge and zero, the pair of positions
  // there.  High half: from the window, the other pair; what is not kept in it is to be cleared.
  uint32_t pairs;
  uint32_t clear;    // mask of the halves that are kept in that other pair
  uint32_t windows;  // selectors that move a window by two values at most, and by the rest

  PATCH_DEVICE explicit KeptTable(int lane) {
    const bool last = lane >= 16;
    // Positions and values are counted from the edge.
    const auto kept = [&](int i) { return lane >> (last ? 3 - i : i) & 1; };
    const auto value = [&](int i, int values) { return 0x10 + 0x22 * (last ? values - 1 - i : i); };
    const auto pair = [&](int near, int far) { return last ? near << 8 | far : far << 8 | near; };
    constexpr int kZero = 0x44;
    const int one = kept(0), two = one + kept(1), three = two + kept(2), four = three + kept(3);
    const int edge = pair(one ? value(0, 2) : kZero, kept(1) ? value(one, 2) : kZero);
    pairs = edge | static_cast<uint32_t>(pair(value(two, 4), value(three, 4))) << 16;
    const uint32_t low = 0xffff, high = low << 16;
    clear = (kept(2) ? (last ? high : low) : 0) | (kept(3) ? (last ? low : high) : 0);
    const int by = last ? 4 - four : four, begin = by < 2 ? by : 2;
    windows = (0x3210 + 0x2222 * begin) | (0x3210u + 0x2222 * (by - begin)) << 16;
  }
};

// See Dense16 for what a decoder has.
template <class T, class G, int Kept>
// NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): `load` and `begin_slab` do it.
class OfSixteen {
 public:
  static constexpr int kValueBytes = G::kPanelRows * 8 * Kept;
  static constexpr int kExtraBytes = G::kPanelRows * 8;
  static constexpr bool kSparse = false;
  static_assert(Kept == 8 || Kept == 12);

  // The slab is loaded with its first step, because a lane's values belong to all of them.  Later steps are
  // unpacked as soon as they are asked for, the first one when the slab begins.
  template <int Step>
  PATCH_DEVICE void load(const uint8_t* slot, const Place<G>& at) {
    PATCH_UNROLL
    for (int m = 0; m < G::kWarpRows; ++m) {
      if constexpr (Step == 0)
        load_slab(m, slot, at);
      else
        unpack<Step>(m);
    }
  }
  PATCH_DEVICE void begin_slab() {
    PATCH_UNROLL
    for (int m = 0; m < G::kWarpRows; ++m) unpack<0>(m);
  }
  template <int Step>
  PATCH_DEVICE void multiply(float (&c)[4], int m, uint32_t b0, uint32_t b1) const {
    T::mma(c, weights_[Step % kBuffers][m], b0, b1);
  }

 private:
  static constexpr int kBuffers = Units<G, kSparse>::kBuffers;
  static constexpr int kPairs = Kept / 2;  // registers of a row
  static constexpr int kPlane = G::kRowBlocks * 512;
  static constexpr int kRest = 2 * kPlane;  // where the values beyond 8 begin

  PATCH_DEVICE void load_slab(int m, const uint8_t* slot, const Place<G>& at) {
    const uint8_t* from = slot + at.fragment + m * 512;
    masks_[m] = load_shared_word(slot + kValueBytes + at.fragment / 4 + m * 128);
    uint32_t plane[4];
    PATCH_UNROLL
    for (int half = 0; half < 2; ++half) {
      load_shared(plane, from + half * kPlane);
      PATCH_UNROLL
      for (int i = 0; i < 4; ++i) values_[m][half][i] = plane[i];
    }
    if constexpr (Kept == 12) {
      load_shared(plane, from + kRest);
      PATCH_UNROLL
      for (int i = 0; i < 4; ++i) values_[m][i / 2][4 + i % 2] = plane[i];
    }
  }

  // Pair i of the four that are next to the first value, or to the last one.
  template <bool Last>
  PATCH_DEVICE uint32_t pair(int m, int half, int i) const {
    return values_[m][half][Last ? kPairs - 4 + i : i];
  }
  // Lane that holds the entry for a step of a row, in its low 5 bits.
  template <int Step>
  PATCH_DEVICE uint32_t entry(int m, int half) const {
    // Each byte: 4 bits of a mask, and the bit for the last 8 positions.
    const uint32_t entries = (masks_[m] >> Step % 2 * 4 & 0x0f0f0f0fu) | 0x10001000u;
    return entries >> (Step / 2 * 8 + half * 16);
  }

  template <int Step>
  PATCH_DEVICE void unpack(int m) {
    constexpr bool kLast = Step >= 2, kEdge = Step == 0 || Step == 3;
    uint32_t (&a)[4] = weights_[Step % kBuffers][m];
    PATCH_UNROLL
    for (int half = 0; half < 2; ++half) {
      uint32_t window[2];
      if constexpr (kEdge) {
        window[0] = pair<kLast>(m, half, kLast ? 2 : 0), window[1] = pair<kLast>(m, half, kLast ? 3 : 1);
      } else {
        const uint32_t by = shuffle(table_.windows, entry<kLast ? 3 : 0>(m, half));
        uint32_t moved[3];
        PATCH_UNROLL
        for (int i = 0; i < 3; ++i)
          moved[i] = select_bytes(pair<kLast>(m, half, i), pair<kLast>(m, half, i + 1), by);
        PATCH_UNROLL
        for (int i = 0; i < 2; ++i) window[i] = select_bytes(moved[i], moved[i + 1], by >> 16);
      }
      const uint32_t at = entry<Step>(m, half), pairs = shuffle(table_.pairs, at);
      a[(kLast ? 2 : 0) + half] = select_bytes(window[kLast ? 1 : 0], 0, pairs);
      a[(kLast ? 0 : 2) + half] = select_bytes(window[0], window[1], pairs >> 16) & shuffle(table_.clear, at);
    }
  }

  KeptTable table_{thread_index() & 31};
  uint32_t masks_[G::kWarpRows];
  uint32_t values_[G::kWarpRows][2][kPairs];  // of the slab, of the low and of the high row
  uint32_t weights_[kBuffers][G::kWarpRows][4];
};

}  // namespace patch
