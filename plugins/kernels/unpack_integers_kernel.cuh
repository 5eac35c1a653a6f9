// Unpacks slabs of integers to plain rows of W for a dense product, as unpack_kernel.cuh does with those of
// 16-bit weights.  A weight is its integer times its scale, in fp32, rounded once to the type of X.
//
// Places of integers in a slab (bytes of int8, 4 bits of int4) are those of decode_integers.cuh and
// decode_integers_of_sixteen.cuh.
#pragma once
#include "kernels/unpack_kernel.cuh"

namespace patch {

// Row and 8 columns of a slab of 64 rows, as a thread writes them, and the slab's values.
template <Weights W>
class IntegersOfRow {
 public:
  PATCH_DEVICE IntegersOfRow(const uint8_t* values, int row, int chunk)
      : values_(values), block_(row / 16), half_(row / 8 % 2), g_(row % 8), chunk_(chunk) {}

  // A pair of neighbours among the kept columns of a dense slab or of 2:4.  step: of 16 kept columns.
  PATCH_DEVICE void pair(int (&q)[2], bool sparse, int step, int k_half, int t) const {
    const int lane = block_ * 32 + 4 * g_ + t, steps = sparse ? 2 : 4;
    if constexpr (W == Weights::kInt4) {
      const uint32_t word = load_word(reinterpret_cast<const uint32_t*>(values_) + lane * steps + step);
      const int at = 4 * (2 * k_half + half_);
      q[0] = static_cast<int>(word >> at & 15) - 8, q[1] = static_cast<int>(word >> (16 + at) & 15) - 8;
    } else {
      const int in_lane = step % 2 * 8 + k_half * 4 + half_ * 2;
      const int at = sparse ? lane * 16 : (step / 2 * kRowBlocks * 32 + lane) * 16;
      const uint32_t both = load_value(reinterpret_cast<const uint16_t*>(values_ + at + in_lane));
      q[0] = static_cast<int>(both & 255) - 128, q[1] = static_cast<int>(both >> 8) - 128;
    }
  }
  // Integer `rank` of the kept ones of lane t, of a slab that keeps `kept` of 16.
  PATCH_DEVICE int ranked(int kept, int t, int rank) const {
    constexpr bool kBytes = W == Weights::kInt8;
    const int lane = block_ * 32 + 4 * g_ + t, more = kept - 8;
    int at = (lane * 2 + half_) * 8 + (kBytes ? rank : rank % 4 * 2 + rank / 4);
    if (rank >= 8) {
      rank -= 8, at = kRowBlocks * 32 * 16 + lane * 2 * more;
      at += kBytes ? half_ * more + rank : rank * 2 + half_;
    }
    if constexpr (kBytes) return static_cast<int>(load_byte(values_ + at)) - 128;
    return (load_byte(values_ + at / 2) >> at % 2 * 4 & 15) - 8;
  }

  // The scale of the row, behind `kept` integers of 16.
  template <class T>
  PATCH_DEVICE float scale(int kept) const {
    const int at = 64 * kKeptBytes * kept / 2 + (block_ * 8 + g_) * 2 + half_;
    return T::widen(load_value(reinterpret_cast<const uint16_t*>(values_) + at));
  }

  PATCH_DEVICE int block() const { return block_; }
  PATCH_DEVICE int half() const { return half_; }
  PATCH_DEVICE int group() const { return g_; }
  PATCH_DEVICE int chunk() const { return chunk_; }

 private:
  static constexpr int kRowBlocks = 4, kKeptBytes = kept_bytes(W);
  const uint8_t* values_;
  int block_, half_, g_, chunk_;
};

// Bytes of a slab in its first tensor.
template <Weights W, int Kind>
inline constexpr int kValueBytesOf = 64 * value_bytes(Kind, W);

template <class T>
PATCH_DEVICE uint32_t weights_of_pair(const int (&q)[2], float scale) {
  return T::narrow(static_cast<float>(q[0]) * scale, static_cast<float>(q[1]) * scale);
}

// Reads the weights of a row's 8 columns.
template <class T, Weights W, int Kind>
PATCH_DEVICE void read_integers(uint32_t (&w)[4], const IntegersOfRow<W>& at, const uint32_t* extra,
                                float scale) {
  int q[2];
  const int chunk = at.chunk(), lane = at.block() * 32 + at.group() * 4;
  if constexpr (W == Weights::kInt4) scale = at.template scale<T>(kKinds[Kind].values);
  if constexpr (Kind == 0) {
    PATCH_UNROLL
    for (int t = 0; t < 4; ++t)
      at.pair(q, false, chunk / 2, chunk % 2, t), w[t] = weights_of_pair<T>(q, scale);
  } else if constexpr (Kind == 1) {
    const uint32_t places = load_word(extra + lane + chunk / 2) >> (16 * at.half() + chunk % 2 * 8);
    PATCH_UNROLL
    for (int i = 0; i < 2; ++i) {
      at.pair(q, true, chunk / 4, chunk % 4 / 2, chunk % 2 * 2 + i);
      expand(w[2 * i], w[2 * i + 1], weights_of_pair<T>(q, scale), places >> 4 * i);
    }
  } else {
    const int first = chunk / 2 * 4 + chunk % 2 * 2;
    PATCH_UNROLL
    for (int t = 0; t < 4; ++t) {
      const uint32_t mask = load_word(extra + lane + t) >> 16 * at.half() & 0xffff;
      PATCH_UNROLL
      for (int i = 0; i < 2; ++i) {
        const int position = first + i;
        const bool kept = mask >> position & 1;
        q[i] = kept ? at.ranked(kKinds[Kind].values, t, count_bits(mask & ((1u << position) - 1))) : 0;
      }
      w[t] = weights_of_pair<T>(q, scale);
    }
  }
}

// Grid: x = a.blocks().  Panels have 64 rows.
template <class T, Weights W>
PATCH_KERNEL_OF(kUnpackThreads, 4)
patch_unpack_integers(const UnpackArguments a) {
  constexpr int kRows = 64;
  wait_for_earlier_launches();
  let_next_launch_begin();
  PATCH_SHARED(shared);
  const int thread = thread_index();
  for_each_slab<kRows>(
      a, shared, thread,
      [&](uint16_t* to, int64_t width, const Slabs& own, int64_t number, int packed, auto index) {
        constexpr int kind = decltype(index)::value;
        const float* scales = a.scales + packed * kRows;
        const uint8_t* values =
            reinterpret_cast<const uint8_t*>(own.values) + number * kValueBytesOf<W, kind>;
        const uint32_t* extra = own.extra + number * kRows * 2;
        write_rows<kRows>(to, width, thread, [=](uint32_t (&w)[4], int row, int chunk) {
          const float scale = W == Weights::kInt8 ? load_scale(scales + row) : 0.f;
          read_integers<T, W, kind>(w, IntegersOfRow<W>(values, row, chunk), extra, scale);
        });
      });
}

}  // namespace patch
