// Decodes slabs of integers of which n of 16 are kept: unpacks them to the fragments of mma.m16n8k16. Groups,
// masks and the order of the kept ones are those of decode_of_sixteen.cuh.  In memory, each plane
// [16-row block][lane: 32]:
//
//   int8   n / 8 times:  8 bytes of the low row, then 8 of the high row                 16 bytes a lane
//          if n & 4:     4 bytes of the low row, then 4 of the high row                  8 bytes
//          if n & 2:     2 bytes of the low row, then 2 of the high row                  4 bytes
//   int4   n / 8 times:  a word of the low row, then one of the high row                 8 bytes
//                        integer r at bit 8 (r % 4) + 4 (r / 4)
//          if n & 4:     a word of both rows                                             4 bytes
//          if n & 2:     a half word of both rows                                        2 bytes
//                        integer r at bit 8 r (low row) and 8 r + 4 (high row)
//          then the scales
//
// Each integer gets a byte of its own.  A step's integers are at most 4 bytes that follow each other: counted
// from the first one or from the last, whichever is nearer, those of steps 0 and 3 lie at the edge and those
// of steps 1 and 2 begin as far from it as the step at that edge has integers: the window of 8 bytes that is
// there is shifted so far.  A permutation then gives each position its byte, or the biased zero if it is not
// kept.
//
// Which byte that is depends on 4 bits of a mask.  So there is a table of 32 entries, half of them for each
// edge, of which every lane holds one; a shuffle looks it up.
#pragma once
#include "kernels/integers.cuh"
#include "kernels/units.cuh"

namespace patch {

// The table: a word of each lane.  Lanes 0 .. 15 are for the first 8 positions, 16 .. 31 for the last 8; bit
// i of the lane's number says whether position i of a step is kept.  Both halves are selectors of
// select_bytes: the low one of the step's bytes, from a window of 4 and the biased zero; the high one shifts
// the window of 8 to the step that is further from the edge.
PATCH_DEVICE uint32_t kept_bytes_of(int lane) {
  const bool last = lane >= 16;
  constexpr uint32_t kZero = 4;
  uint32_t rank = 0, pick = 0;
  const auto count = static_cast<uint32_t>((lane & 1) + (lane >> 1 & 1) + (lane >> 2 & 1) + (lane >> 3 & 1));
  const uint32_t begin = last ? 4 - count : 0;  // the step's first byte in the window
  PATCH_UNROLL
  for (int i = 0; i < 4; ++i) {
    const bool kept = lane >> i & 1;
    pick |= (kept ? begin + rank : kZero) << 4 * i;
    rank += kept;
  }
  return pick | (0x3210u + 0x1111u * (last ? 4 - count : count)) << 16;
}

// See Dense16 for what a decoder has.
template <class T, class G, int Kept>
// NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): `load` and `begin_slab` do it.
class IntegersOfSixteen {
 public:
  // Where the scales of int4 begin.
  static constexpr int kScales = G::kPanelRows * kept_bytes(G::kWeights) * Kept;
  static constexpr int kValueBytes = kScales + G::kPanelRows * scale_bytes(G::kWeights);
  static constexpr int kExtraBytes = G::kPanelRows * 8;
  static constexpr bool kSparse = false;
  static_assert(Kept % 2 == 0 && Kept >= 4 && Kept <= 14);

  // As Integers does.
  template <int Step>
  PATCH_DEVICE void load(const uint8_t* slot, const Place<G>& at) {
    PATCH_UNROLL
    for (int m = 0; m < G::kWarpRows; ++m) {
      if constexpr (Step == 0)
        load_slab(m, slot, at);
      else if constexpr (Step >= kStepsAhead)
        unpack<Step>(m);
    }
  }
  PATCH_DEVICE void begin_slab() {
    PATCH_UNROLL
    for (int m = 0; m < G::kWarpRows; ++m) {
      scales_.begin_slab(m);
      for_each_index<kStepsAhead>([&](auto step) { unpack<decltype(step)::value>(m); });
    }
  }
  template <int Step>
  PATCH_DEVICE void multiply(float (&c)[4], int m, uint32_t b0, uint32_t b1) const {
    T::mma(c, weights_[Step % kBuffers][m], b0, b1);
  }

 private:
  static constexpr bool kBytes = G::kWeights == Weights::kInt8;
  static constexpr int kBuffers = Units<G, kSparse>::kBuffers, kStepsAhead = Units<G, kSparse>::kStepsAhead;
  static constexpr int kEights = Kept / 8,
                       kWhole = Kept / 4;  // planes of 8, and whole words of a row's bytes
  // Where the planes of 4 and of 2 begin.
  static constexpr int kLaneBytes = kBytes ? 16 : 8;  // of the plane of 8
  static constexpr int kFours = kEights * G::kRowBlocks * 32 * kLaneBytes;
  static constexpr int kTwos = kFours + kWhole % 2 * G::kRowBlocks * 16 * kLaneBytes;
  static constexpr uint32_t kZeros = kBiasOf<G> * 0x01010101u;

  // The bytes of int4: the low or the high 4 bits of each byte.
  PATCH_DEVICE static uint32_t low_nibbles(uint32_t word) { return word & 0x0f0f0f0fu; }
  PATCH_DEVICE static uint32_t high_nibbles(uint32_t word) { return word >> 4 & 0x0f0f0f0fu; }

  PATCH_DEVICE void load_slab(int m, const uint8_t* slot, const Place<G>& at) {
    masks_[m] = load_shared_word(slot + kValueBytes + at.fragment / 4 + m * 128);
    if constexpr (kEights > 0 && kBytes) {
      uint32_t four[4];
      load_shared(four, slot + at.fragment + m * 512);
      PATCH_UNROLL
      for (int i = 0; i < 4; ++i) packed_[m][i / 2][i % 2] = four[i];
    }
    if constexpr (kEights > 0 && !kBytes) {
      uint32_t two[2];
      load_shared_two(two, slot + at.fragment / 2 + m * 256);
      packed_[m][0][0] = two[0], packed_[m][1][0] = two[1];
    }
    if constexpr (kWhole % 2 && kBytes) {
      uint32_t two[2];
      load_shared_two(two, slot + kFours + at.fragment / 2 + m * 256);
      packed_[m][0][kWhole - 1] = two[0], packed_[m][1][kWhole - 1] = two[1];
    }
    if constexpr (kWhole % 2 && !kBytes)
      fours_[m] = load_shared_word(slot + kFours + at.fragment / 4 + m * 128);
    if constexpr (Kept % 4 && kBytes) twos_[m] = load_shared_word(slot + kTwos + at.fragment / 4 + m * 128);
    if constexpr (Kept % 4 && !kBytes) twos_[m] = load_shared_half(slot + kTwos + at.fragment / 8 + m * 64);
    scales_.load(m, slot + kScales, at);
  }

  // Whole word i of a row's bytes.
  PATCH_DEVICE uint32_t word(int m, int half, int i) const {
    if constexpr (kBytes) return packed_[m][half][i];
    if (i < 2 * kEights) return i == 0 ? low_nibbles(packed_[m][half][0]) : high_nibbles(packed_[m][half][0]);
    return half == 0 ? low_nibbles(fours_[m]) : high_nibbles(fours_[m]);
  }
  // The last two bytes of a row, if words do not hold them: half word `place` of it.
  struct Pair {
    uint32_t word;
    int place;
  };
  PATCH_DEVICE Pair rest(int m, int half) const {
    if constexpr (kBytes) return {twos_[m], half};
    return {half == 0 ? low_nibbles(twos_[m]) : high_nibbles(twos_[m]), 0};
  }
  // Bytes 4 * i .. of the 8 bytes from a row's first one, or of the 8 up to its last one.  Those that no kept
  // integer has are anything.
  template <bool Last>
  PATCH_DEVICE uint32_t window(int m, int half, int i) const {
    if constexpr (!Last || Kept % 4 == 0) {
      const int at = Last ? kWhole - 2 + i : i;
      if (at >= 0 && at < kWhole) return word(m, half, at);
      if (Kept % 4 == 0 || at != kWhole) return 0;
      const Pair two = rest(m, half);
      return two.place == 0 ? two.word : two.word >> 16;
    } else if (i == 1) {
      const Pair two = rest(m, half);
      return select_bytes(word(m, half, kWhole - 1), two.word, two.place == 0 ? 0x5432 : 0x7632);
    } else {
      const uint32_t before = kWhole > 1 ? word(m, half, kWhole - 2) : 0;
      return select_bytes(before, word(m, half, kWhole - 1), 0x5432);
    }
  }

  // The table's entry for a step of a row.
  template <int Step>
  PATCH_DEVICE uint32_t entry(int m, int half) const {
    // Each byte: 4 bits of a mask, and the bit for the last 8 positions.
    const uint32_t entries = (masks_[m] >> Step % 2 * 4 & 0x0f0f0f0fu) | 0x10001000u;
    return shuffle(table_, entries >> (Step / 2 * 8 + half * 16));
  }

  template <int Step>
  PATCH_DEVICE void unpack(int m) {
    constexpr bool kLast = Step >= 2, kAtEdge = Step == 0 || Step == 3;
    uint32_t (&a)[4] = weights_[Step % kBuffers][m];
    PATCH_UNROLL
    for (int half = 0; half < 2; ++half) {
      if constexpr (Step % 2 == 0) edges_[m][half] = entry<kLast ? 3 : 0>(m, half);
      const uint32_t edge = edges_[m][half], own = kAtEdge ? edge : entry<Step>(m, half);
      uint32_t bytes = window<kLast>(m, half, kLast ? 1 : 0);
      if constexpr (!kAtEdge)
        bytes = select_bytes(window<kLast>(m, half, 0), window<kLast>(m, half, 1), edge >> 16);
      bytes = select_bytes(bytes, kZeros, own);
      a[half] = scales_.weights(m, half, IntegersOf<T>::template bytes<kBiasOf<G>, 0, 1>(bytes));
      a[2 + half] = scales_.weights(m, half, IntegersOf<T>::template bytes<kBiasOf<G>, 2, 3>(bytes));
    }
  }

  static constexpr int kWords = kBytes ? (kWhole > 0 ? kWhole : 1) : 1;
  uint32_t table_ = kept_bytes_of(thread_index() & 31);
  uint32_t edges_[G::kWarpRows][2];  // entries of the steps at the edge
  uint32_t masks_[G::kWarpRows];
  uint32_t packed_[G::kWarpRows][2][kWords];  // of the slab, of the low and of the high row
  uint32_t fours_[G::kWarpRows], twos_[G::kWarpRows];
  SlabScales<T, G> scales_;
  uint32_t weights_[kBuffers][G::kWarpRows][4];
};

}  // namespace patch
