// Decodes dense and 2:4 slabs of integers: makes the fragments of mma.m16n8k16 or mma.sp.m16n8k32 of them. In
// memory, the order of the dimensions in a lane's values is that of 16-bit ones:
//
//   int8 dense   [k32: 2][16-row block][lane: 32][k16 of the k32: 2][k half: 2][row half: 2][pair: 2] bytes
//   int8 2:4     [16-row block][lane: 32][k32: 2][k half: 2][row half: 2][pair: 2] bytes, the kept half
//   int4 dense   [16-row block][lane: 32][k16: 4] words    of 8 integers: bits 4 i + 16 * pair are those of
//   int4 2:4     [16-row block][lane: 32][k32: 2] words    i = 2 * k half + row half; then the scales
//
//   2:4 slabs have the metadata of decode_sparse24.cuh.
#pragma once
#include "kernels/integers.cuh"
#include "kernels/units.cuh"

namespace patch {

// See Dense16 for what a decoder has.
template <class T, class G, bool Sparse>
// NOLINTNEXTLINE(cppcoreguidelines-pro-type-member-init): `load` and `begin_slab` do it.
class Integers {
 public:
  static constexpr int kValueBytes = G::kPanelRows * value_bytes(Sparse, G::kWeights);
  // Where the scales of int4 begin.
  static constexpr int kScales = kValueBytes - G::kPanelRows * scale_bytes(G::kWeights);
  static constexpr int kExtraBytes = G::kPanelRows * extra_bytes(Sparse, G::kWeights);
  static constexpr bool kSparse = Sparse;

  // The slab is loaded with its first step.  Steps that are asked for before it begins are converted when it
  // begins, so that they need not wait for shared memory, and later ones as soon as they are asked for.
  template <int Step>
  PATCH_DEVICE void load(const uint8_t* slot, const Place<G>& at) {
    PATCH_UNROLL
    for (int m = 0; m < G::kWarpRows; ++m) {
      if constexpr (Step == 0)
        load_slab(m, slot, at);
      else if constexpr (Step >= kStepsAhead)
        convert<Step>(m);
    }
  }
  PATCH_DEVICE void begin_slab() {
    PATCH_UNROLL
    for (int m = 0; m < G::kWarpRows; ++m) {
      if constexpr (Sparse) places_[m] = next_places_[m];
      scales_.begin_slab(m);
      for_each_index<kStepsAhead>([&](auto step) { convert<decltype(step)::value>(m); });
    }
  }
  template <int Step>
  PATCH_DEVICE void multiply(float (&c)[4], int m, uint32_t b0, uint32_t b1) const {
    T::mma(c, weights_[Step % kBuffers][m], b0, b1);
  }
  template <int Step>
  PATCH_DEVICE void multiply(float (&c)[4], int m, const uint32_t (&b)[4]) const {
    T::template mma_sp<Step>(c, weights_[Step % kBuffers][m], b, places_[m]);
  }

 private:
  static constexpr bool kBytes = G::kWeights == Weights::kInt8;
  static constexpr int kBuffers = Units<G, Sparse>::kBuffers, kStepsAhead = Units<G, Sparse>::kStepsAhead;
  static constexpr int kWords = (Sparse ? 2 : 4) * (kBytes ? 2 : 1);  // of a lane and row block
  static constexpr int kHeld = Sparse ? G::kWarpRows : 1;

  PATCH_DEVICE void load_slab(int m, const uint8_t* slot, const Place<G>& at) {
    if constexpr (kWords == 2) {
      load_shared_two(words_[m], slot + at.fragment / 2 + m * 256);
    } else {
      uint32_t four[4];
      PATCH_UNROLL
      for (int k32 = 0; k32 < kWords / 4; ++k32) {
        load_shared(four, slot + at.fragment + (k32 * G::kRowBlocks + m) * 512);
        PATCH_UNROLL
        for (int i = 0; i < 4; ++i) words_[m][k32 * 4 + i] = four[i];
      }
    }
    scales_.load(m, slot + kScales, at);
    if constexpr (Sparse) next_places_[m] = load_shared_word(slot + kValueBytes + at.fragment / 4 + m * 128);
  }

  template <int Step>
  PATCH_DEVICE void convert(int m) {
    uint32_t (&a)[4] = weights_[Step % kBuffers][m];
    if constexpr (kBytes) {
      PATCH_UNROLL
      for (int k_half = 0; k_half < 2; ++k_half) {
        const uint32_t word = words_[m][Step * 2 + k_half];
        a[2 * k_half] = IntegersOf<T>::template bytes<kByteBias, 0, 1>(word);
        a[2 * k_half + 1] = IntegersOf<T>::template bytes<kByteBias, 2, 3>(word);
      }
    } else {
      for_each_index<4>([&](auto index) {
        constexpr int i = decltype(index)::value;
        a[i] = scales_.weights(m, i % 2, IntegersOf<T>::template nibbles<i>(words_[m][Step]));
      });
    }
  }

  uint32_t words_[G::kWarpRows][kWords];  // of the slab
  SlabScales<T, G> scales_;
  uint32_t weights_[kBuffers][G::kWarpRows][4];
  uint32_t places_[kHeld], next_places_[kHeld];  // metadata of this slab and of the next one
};

}  // namespace patch
