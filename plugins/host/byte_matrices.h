// mma and mma.sp of int8 for the host emulation, as the PTX ISA (9.7.14) defines them.
#pragma once
#include <cstdint>

#include "host/machine.h"

namespace patch::host {

struct ByteMmaLane {
  int32_t* c;
  const uint32_t* a;
  uint32_t b[4];
  uint32_t meta;
};

inline int32_t byte_of(uint32_t r, int i) { return static_cast<int8_t>(r >> 8 * i); }

// c += A B of integers, modulo 2^32.
template <int K>
void accumulate_bytes(void* const* lanes, const int32_t (&a)[16][K], const int32_t (&b)[K][8]) {
  for (int l = 0; l < 32; ++l)
    for (int j = 0; j < 4; ++j) {
      const int row = l / 4 + (j >> 1) * 8, column = l % 4 * 2 + (j & 1);
      int32_t& c = static_cast<ByteMmaLane*>(lanes[l])->c[j];
      int64_t sum = c;
      for (int k = 0; k < K; ++k) sum += a[row][k] * b[k][column];
      c = static_cast<int32_t>(sum);
    }
}

// 9.7.14.5.10: byte i of register r is a of row g (+ 8 if r is odd), column 4t + i (+ 16 if r >= 2);
//              of b of row 4t + i + 16 r, column g.
inline void compute_byte_mma(void* const* lanes) {
  ++Machine::get().stats.mma;
  int32_t a[16][32], b[32][8];
  for (int l = 0; l < 32; ++l) {
    const auto& lane = *static_cast<const ByteMmaLane*>(lanes[l]);
    const int g = l / 4, t = l % 4;
    for (int i = 0; i < 4; ++i) {
      for (int r = 0; r < 4; ++r) a[g + r % 2 * 8][4 * t + i + r / 2 * 16] = byte_of(lane.a[r], i);
      for (int r = 0; r < 2; ++r) b[4 * t + i + 16 * r][g] = byte_of(lane.b[r], i);
    }
  }
  accumulate_bytes(lanes, a, b);
}

// 9.7.14.6: a compressed byte has the place that it has in mma.m16n8k32 (K = 64) or mma.m16n8k16 (K = 32),
// and two of them cover 4 dense columns.  The word of lane 4g + j has 4 bits for each 4 of the columns 32 *
// (j / 2) .. of row g + 8 * (j % 2); with K = 32, words of lanes with j > 1 are ignored.
template <int K>
void compute_byte_mma_sp(void* const* lanes) {
  ++Machine::get().stats.mma_sp;
  int32_t a[16][K] = {}, b[K][8];
  for (int l = 0; l < 32; ++l) {
    const auto& lane = *static_cast<const ByteMmaLane*>(lanes[l]);
    const int g = l / 4, t = l % 4;
    for (int i = 0; i < 4; ++i) {
      for (int r = 0; r < K / 16; ++r) {
        const int high = r % 2, kept = 4 * t + i + r / 2 * 16, group = kept / 2;
        const auto& owner = *static_cast<const ByteMmaLane*>(lanes[4 * g + group / 8 * 2 + high]);
        const uint32_t pair = owner.meta >> group % 8 * 4 & 15;
        if ((pair & 3) >= (pair >> 2))
          return Machine::get().note_fault("mma.sp::ordered_metadata got an unordered pair");
        a[g + high * 8][group * 4 + (kept % 2 ? pair >> 2 : pair & 3)] = byte_of(lane.a[r], i);
        b[4 * t + i + 16 * r][g] = byte_of(lane.b[r], i);
      }
    }
  }
  accumulate_bytes(lanes, a, b);
}

}  // namespace patch::host
