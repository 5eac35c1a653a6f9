// Decodes slabs of integers of which n of 16 are kept: unpacks them to the fragments of mma.m16n8k16. Groups,
// masks and the order of the kept ones are those of decode_of_sixteen.cuh.  In memory, each plane
// [16-row block][lane: 32]:
//
//   int8             8 bytes of the low row, then 8 of the high row                     16 bytes a lane
//          12:16     4 bytes of the low row, then 4 of the high row                      8 bytes
//   int4             a word of the low row, then one of the high row                     8 bytes
//                    integer r at bit 8 (r % 4) + 4 (r / 4)
//          12:16     a word of both rows                                                 4 bytes
//                    integer r at bit 8 r (low row) and 8 r + 4 (high row)
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
  static_assert(Kept == 8 || Kept == 12);

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
  static constexpr int kRest = G::kRowBlocks * 32 * (kBytes ? 16 : 8);  // where the integers beyond 8 begin
  static constexpr uint32_t kZeros = kBiasOf<G> * 0x01010101u;

  // The bytes of int4: the low or the high 4 bits of each byte.
  PATCH_DEVICE static uint32_t nibbles(uint32_t word, int high) {
    return (high == 0 ? word : word >> 4) & 0x0f0f0f0fu;
  }

  PATCH_DEVICE void load_slab(int m, const uint8_t* slot, const Place<G>& at) {
    masks_[m] = load_shared_word(slot + kValueBytes + at.fragment / 4 + m * 128);
    if constexpr (kBytes) {
      uint32_t four[4];
      load_shared(four, slot + at.fragment + m * 512);
      PATCH_UNROLL
      for (int i = 0; i < 4; ++i) packed_[m][i / 2][i % 2] = four[i];
    } else {
      uint32_t two[2];
      load_shared_two(two, slot + at.fragment / 2 + m * 256);
      packed_[m][0][0] = two[0], packed_[m][1][0] = two[1];
    }
    const uint8_t* rest = slot + kRest;
    if constexpr (Kept == 12 && kBytes) load_shared_two(rest_[m], rest + at.fragment / 2 + m * 256);
    if constexpr (Kept == 12 && !kBytes) rest_[m][0] = load_shared_word(rest + at.fragment / 4 + m * 128);
    scales_.load(m, slot + kScales, at);
  }

  // Word i of a row's first 8 bytes.
  PATCH_DEVICE uint32_t word(int m, int half, int i) const {
    if constexpr (kBytes) return packed_[m][half][i];
    return nibbles(packed_[m][half][0], i);
  }
  // A row's bytes beyond 8.
  PATCH_DEVICE uint32_t rest(int m, int half) const {
    if constexpr (kBytes) return rest_[m][half];
    return nibbles(rest_[m][0], half);
  }
  // Bytes 4 * i .. of the 8 bytes from a row's first one, or of the 8 up to its last one.
  template <bool Last>
  PATCH_DEVICE uint32_t window(int m, int half, int i) const {
    if constexpr (!Last || Kept == 8) return word(m, half, i);
    return i == 0 ? word(m, half, 1) : rest(m, half);
  }

  // The table's entry for a step of a row.
  template <int Step>
  PATCH_DEVICE uint32_t entry(int m, int half) const {
    // Each byte: 4 bits of a mask, and the bit for the last 8 positions.
    const uint32_t entries = keep_bits(masks_[m] >> Step % 2 * 4, 0x0f0f0f0fu, 0x10001000u);
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

  uint32_t table_ = kept_bytes_of(thread_index() & 31);
  uint32_t edges_[G::kWarpRows][2];  // entries of the steps at the edge
  uint32_t masks_[G::kWarpRows];
  uint32_t packed_[G::kWarpRows][2][kBytes ? 2 : 1];  // of the slab, of the low and of the high row
  uint32_t rest_[G::kWarpRows][2];
  SlabScales<T, G> scales_;
  uint32_t weights_[kBuffers][G::kWarpRows][4];
};

}  // namespace patch
