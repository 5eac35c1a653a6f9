// Host emulation of kernels/ptx.cuh: functions of the same names, which compute what the PTX ISA (9.7.14)
// defines.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "host/byte_matrices.h"
#include "host/machine.h"

#define PATCH_DEVICE inline
#define PATCH_KERNEL(threads) void
#define PATCH_KERNEL_OF(threads, blocks) void
#define PATCH_SHARED(name) uint8_t* name = ::patch::host::Machine::get().shared()
#define PATCH_UNROLL
#define PATCH_NO_UNROLL
#define PATCH_UNROLL_FOUR

namespace patch {

inline int thread_index() { return host::Machine::get().thread(); }
inline int64_t block_index() { return host::Machine::get().block(); }
inline void sync_block() { host::Machine::get().barrier(); }
inline bool sync_block_any(bool vote) { return host::Machine::get().barrier_any(vote); }

inline void wait_for_earlier_launches() { host::Machine::get().wait_for_launches(); }
inline void let_next_launch_begin() { host::Machine::get().let_next_launch_begin(); }

template <int Offset>
void copy_tokens_async(void* shared, const void* global, bool low, bool high, int vector) {
  host::Machine& m = host::Machine::get();
  auto* to = static_cast<uint8_t*>(shared) + Offset;
  if (vector == 8) return m.copy_async(to, global, 16, low);
  m.copy_async(to, global, 8, low);
  m.copy_async(to + 8, static_cast<const uint8_t*>(global) + 8, 8, high);
}
using Policy = uint64_t;
struct NoPolicy {};
inline Policy weights_read_once() { return 1; }
inline Policy weights_read_again() { return 0; }
template <int Offset, class Hint>
void copy_weights_async(void* shared, const void* global, Hint, bool here) {
  if (!here) return;
  host::Machine& m = host::Machine::get();
  m.stats.weight_bytes += 16;
  m.copy_async(static_cast<uint8_t*>(shared) + Offset, static_cast<const uint8_t*>(global) + Offset, 16,
               true);
}
inline void request_weights(const uint8_t* global, uint32_t bytes, Policy) {
  host::Machine::get().request(global, bytes);
}
template <int Offset>
void copy_inputs_async(void* shared, const void* global, bool here) {
  if (here) host::Machine::get().copy_async(static_cast<uint8_t*>(shared) + Offset, global, 16, true);
}
inline void commit_copies() { host::Machine::get().commit_copies(); }
template <int Groups>
void wait_copies() {
  host::Machine::get().wait_copies(Groups);
}

inline void load_shared(uint32_t (&r)[4], const void* p) {
  host::Machine::get().read_shared(p, 16);
  std::memcpy(r, p, 16);
}
inline void load_shared_two(uint32_t (&r)[2], const void* p) {
  host::Machine::get().read_shared(p, 8);
  std::memcpy(r, p, 8);
}
inline uint32_t load_shared_word(const void* p) {
  host::Machine::get().read_shared(p, 4);
  uint32_t v = 0;
  std::memcpy(&v, p, 4);
  return v;
}
inline void store_shared_word(void* p, uint32_t v) {
  host::Machine::get().write_shared(p, 4);
  std::memcpy(p, &v, 4);
}

template <class V>
V load_global(const V* p, size_t bytes = sizeof(V)) {
  host::Machine::get().check(host::Machine::get().read(p, bytes));
  return *p;
}
inline int count_bits(uint32_t word) { return __builtin_popcount(word); }
inline int32_t load_index(const int32_t* p) { return load_global(p); }
inline uint16_t load_bias(const uint16_t* p) { return load_global(p); }
inline float load_scale(const float* p) { return load_global(p); }
inline float load_written(const float* p) { return load_global(p); }
inline uint16_t load_written(const uint16_t* p) { return load_global(p); }
inline uint8_t load_byte(const uint8_t* p) { return load_global(p); }
inline uint16_t load_value(const uint16_t* p) { return load_global(p); }
inline uint32_t load_pair(const uint16_t* p) {
  uint32_t pair = 0;
  host::Machine::get().check(host::Machine::get().read(p, 4));
  if (reinterpret_cast<uintptr_t>(p) % 4) host::Machine::get().note_fault("misaligned load of a pair");
  std::memcpy(&pair, p, 4);
  return pair;
}
inline uint32_t load_word(const uint32_t* p) { return load_global(p); }
inline void load_four(uint32_t (&v)[2], const uint16_t* p) {
  load_global(p, 8);
  std::memcpy(v, p, 8);
}
inline void load_eight(uint32_t (&v)[4], const uint16_t* p) {
  load_global(p, 16);
  std::memcpy(v, p, 16);
}
inline float exp2_approximate(float x) { return std::exp2(x); }
inline float reciprocal(float x) { return 1.f / x; }
// The compiler may make one operation of a product and a sum, but not with a product that is stored.
inline float multiply_alone(float a, float b) {
  const volatile float product = a * b;
  return product;
}
inline float divide(float a, float b) { return a / b; }
inline int32_t nearest_integer(float x) { return static_cast<int32_t>(std::nearbyint(x)); }
template <class V>
void load_partials(V (&v)[4], const float* p) {
  host::Machine::get().take_sums(v, p, 16);
}
template <class V>
void store_partials(float* p, const V (&v)[4]) {
  host::Machine::get().pass_sums(p, v, 16);
}
inline int32_t count_arrival(int32_t* counter) { return host::Machine::get().arrive(counter); }
inline void reset_counter(int32_t* counter) { host::Machine::get().reset(counter); }
inline void store_global(void* to, const void* from, size_t bytes) {
  host::Machine::get().touch(to, bytes);
  host::Machine::get().check(host::Machine::get().global.write(to, bytes));
  std::memcpy(to, from, bytes);
}
inline void store_pair(uint16_t* to, uint32_t pair) { store_global(to, &pair, 4); }
inline void store_value(uint16_t* to, uint16_t value) { store_global(to, &value, 2); }
inline void store_scale(float* to, float scale) { store_global(to, &scale, 4); }
inline void store_bytes(int8_t* to, const uint32_t (&v)[4]) { store_global(to, v, 16); }
inline void store_eight(uint16_t* to, const uint32_t (&v)[4]) { store_global(to, v, 16); }
template <int Bytes>
void store_output(uint16_t* to, const uint16_t* from) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(from);
  for (int i = 0; i < Bytes;
       i += 4)  // the race check works on 4-byte words, so a 2-byte read checks the word that contains it
    host::Machine::get().read_shared(bytes - reinterpret_cast<uintptr_t>(bytes) % 4 + i, 4);
  store_global(to, from, Bytes);
}

namespace host {

struct MatrixLane {
  const uint8_t* row;
  uint32_t* r;
};

inline void compute_ldmatrix(void* const* lanes) {
  Machine& m = Machine::get();
  ++m.stats.ldmatrix;
  const auto at = [&](int l) { return static_cast<const MatrixLane*>(lanes[l]); };
  for (int j = 0; j < 4; ++j) {
    int rows_of_banks[8] = {}, waves = 0;  // a 16-byte row covers one of 8 groups of 4 banks
    for (int i = 0; i < 8; ++i)
      waves = std::max(waves, ++rows_of_banks[reinterpret_cast<uintptr_t>(at(8 * j + i)->row) / 16 % 8]);
    m.stats.ldmatrix_waves += waves;
    for (int l = 0; l < 32; ++l) std::memcpy(&at(l)->r[j], at(8 * j + l / 4)->row + 4 * (l % 4), 4);
  }
}

struct TransposeLane {
  uint32_t in, out;
};

inline void compute_transpose(void* const* lanes) {
  uint16_t m[8][8];
  for (int l = 0; l < 32; ++l)
    std::memcpy(&m[l / 4][2 * (l % 4)], &static_cast<TransposeLane*>(lanes[l])->in, 4);
  for (int l = 0; l < 32; ++l) {
    const int row = l / 4, column = 2 * (l % 4);
    static_cast<TransposeLane*>(lanes[l])->out = m[column][row] | static_cast<uint32_t>(m[column + 1][row])
                                                                      << 16;
  }
}

struct ShuffleLane {
  uint32_t word, lane, out;
};

inline void compute_shuffle(void* const* lanes) {
  for (int l = 0; l < 32; ++l) {
    auto* lane = static_cast<ShuffleLane*>(lanes[l]);
    lane->out = static_cast<const ShuffleLane*>(lanes[lane->lane % 32])->word;
  }
}

struct MmaLane {
  float* c;
  const uint32_t* a;
  uint32_t b[4];
  uint32_t meta;
};

inline uint16_t half_word(uint32_t r, int high) { return static_cast<uint16_t>(r >> (16 * high)); }

// c += A B, A [16, K], B [K, 8]; C's layout: c0, c1 row g, c2, c3 row g + 8, columns 2t, 2t + 1.
template <int K>
void accumulate(void* const* lanes, const float (&a)[16][K], const float (&b)[K][8]) {
  float c[16][8];
  for (int l = 0; l < 32; ++l)
    for (int j = 0; j < 4; ++j)
      c[l / 4 + (j >> 1) * 8][l % 4 * 2 + (j & 1)] = static_cast<MmaLane*>(lanes[l])->c[j];
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < K; ++k)
      for (int n = 0; n < 8; ++n) c[row][n] += a[row][k] * b[k][n];
  for (int l = 0; l < 32; ++l)
    for (int j = 0; j < 4; ++j)
      static_cast<MmaLane*>(lanes[l])->c[j] = c[l / 4 + (j >> 1) * 8][l % 4 * 2 + (j & 1)];
}

// 9.7.14.5.8: a_i row g for i in {0, 1, 4, 5} else g + 8, column 2t + (i & 1), + 8 for i >= 4;
//             b_i row 2t + (i & 1), + 8 for i >= 2, column g.
template <class T>
void compute_mma(void* const* lanes) {
  ++Machine::get().stats.mma;
  float a[16][16], b[16][8];
  for (int l = 0; l < 32; ++l) {
    const auto& lane = *static_cast<const MmaLane*>(lanes[l]);
    const int g = l / 4, t = l % 4;
    for (int i = 0; i < 8; ++i)
      a[g + ((i >> 1) & 1) * 8][2 * t + (i & 1) + (i >= 4) * 8] = T::widen(half_word(lane.a[i >> 1], i & 1));
    for (int i = 0; i < 4; ++i)
      b[2 * t + (i & 1) + (i >= 2) * 8][g] = T::widen(half_word(lane.b[i >> 1], i & 1));
  }
  accumulate(lanes, a, b);
}

// 9.7.14.6: compressed a_i has the place of a_i in mma.m16n8k16, and its pair covers the 4 dense columns from
// 4t (+ 16 for i >= 4).  Selector s reads the metadata of lanes 2s and 2s + 1 of each quad: the first for
// columns 0..15, the second for 16..31; low half word for row g, high half word for row g + 8; 4 bits for 4
// columns.
template <class T, int Selector>
void compute_mma_sp(void* const* lanes) {
  ++Machine::get().stats.mma_sp;
  float a[16][32] = {}, b[32][8];
  for (int l = 0; l < 32; ++l) {
    const auto& lane = *static_cast<const MmaLane*>(lanes[l]);
    const int g = l / 4, t = l % 4;
    for (int i = 0; i < 8; ++i) {
      const int high = (i >> 1) & 1, first = 4 * t + (i >= 4) * 16;
      const auto& owner = *static_cast<const MmaLane*>(lanes[g * 4 + 2 * Selector + (first >> 4)]);
      const uint32_t pair = owner.meta >> (16 * high + (first & 15)) & 15;
      if ((pair & 3) >= (pair >> 2))
        return Machine::get().note_fault("mma.sp::ordered_metadata got an unordered pair");
      a[g + high * 8][first + (i & 1 ? pair >> 2 : pair & 3)] = T::widen(half_word(lane.a[i >> 1], i & 1));
      b[2 * t + (i & 1) + (i >> 1) * 8][g] = T::widen(half_word(lane.b[i >> 1], i & 1));
    }
  }
  accumulate(lanes, a, b);
}

// All fp16 values as floats, so that widening is one load.
inline const float* half_table() {
  static const std::unique_ptr<float[]> table = [] {
    auto t = std::make_unique<float[]>(65536);
    for (uint32_t v = 0; v < 65536; ++v) {
      const auto exponent = static_cast<int>(v >> 10 & 31), fraction = static_cast<int>(v & 1023);
      const float magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                              : exponent == 0
                                  ? std::ldexp(static_cast<float>(fraction), -24)
                                  : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
      t[v] = v & 0x8000 ? -magnitude : magnitude;
    }
    return t;
  }();
  return table.get();
}

}  // namespace host

template <int Offset>
void load_matrices(uint32_t (&r)[4], const uint8_t* row) {
  host::Machine::get().read_shared_by_warp(row + Offset, 16);
  host::MatrixLane lane{row + Offset, r};
  host::Machine::get().collective(host::compute_ldmatrix, &lane);
}
inline uint32_t shuffle(uint32_t word, uint32_t lane) {
  host::ShuffleLane mine{word, lane, 0};
  host::Machine::get().collective(host::compute_shuffle, &mine);
  return mine.out;
}
inline uint32_t select_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
  uint32_t r = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t nibble = selector >> (4 * i) & 15;
    if (nibble >= 8) host::Machine::get().note_fault("prmt got a selector that replicates a sign");
    r |= static_cast<uint32_t>(both >> (8 * (nibble & 7)) & 0xff) << (8 * i);
  }
  return r;
}
inline uint32_t keep_bits(uint32_t word, uint32_t mask, uint32_t bits) { return (word & mask) | bits; }
inline uint32_t transpose_matrix(uint32_t r) {
  host::TransposeLane lane{r, 0};
  host::Machine::get().collective(host::compute_transpose, &lane);
  return lane.out;
}

inline void multiply_bytes(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  host::ByteMmaLane lane{c, a, {b0, b1, 0, 0}, 0};
  host::Machine::get().collective(host::compute_byte_mma, &lane);
}
inline void multiply_bytes_sparse(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[4],
                                  uint32_t meta) {
  host::ByteMmaLane lane{c, a, {b[0], b[1], b[2], b[3]}, meta};
  host::Machine::get().collective(host::compute_byte_mma_sp<64>, &lane);
}
inline void multiply_bytes_sparse(int32_t (&c)[4], const uint32_t (&a)[2], uint32_t b0, uint32_t b1,
                                  uint32_t meta) {
  host::ByteMmaLane lane{c, a, {b0, b1, 0, 0}, meta};
  host::Machine::get().collective(host::compute_byte_mma_sp<32>, &lane);
}

// Adds mma and mma.sp to a type T that has `widen` and `narrow_one`.
template <class T>
struct HostScalar {
  static uint32_t narrow(float lo, float hi) {
    return T::narrow_one(lo) | static_cast<uint32_t>(T::narrow_one(hi)) << 16;
  }
  // Sums and products of 16-bit values are rounded once: those of fp16 are exact in fp32 or far from a tie of
  // fp16 (Figueroa 1995, "When is double rounding innocuous?": 24 >= 2 * 11 + 2), those of bf16 likewise.
  static uint32_t add(uint32_t a, uint32_t b) {
    using host::half_word;
    return narrow(T::widen(half_word(a, 0)) + T::widen(half_word(b, 0)),
                  T::widen(half_word(a, 1)) + T::widen(half_word(b, 1)));
  }
  static uint32_t multiply(uint32_t a, uint32_t b) {
    using host::half_word;
    return narrow(T::widen(half_word(a, 0)) * T::widen(half_word(b, 0)),
                  T::widen(half_word(a, 1)) * T::widen(half_word(b, 1)));
  }
  static void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    host::MmaLane lane{c, a, {b0, b1, 0, 0}, 0};
    host::Machine::get().collective(host::compute_mma<T>, &lane);
  }
  template <int Selector>
  static void mma_sp(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t meta) {
    host::MmaLane lane{c, a, {b[0], b[1], b[2], b[3]}, meta};
    host::Machine::get().collective(host::compute_mma_sp<T, Selector>, &lane);
  }
};

struct Half : HostScalar<Half> {
  static constexpr uint32_t kInfinity = 0x7c00;
  static uint32_t multiply_add(uint32_t a, uint32_t b, uint32_t c) {
    using host::half_word;
    float sums[2];
    for (int i = 0; i < 2; ++i) {
      const double sum = double{widen(half_word(a, i))} * widen(half_word(b, i)) + widen(half_word(c, i));
      sums[i] = static_cast<float>(sum);
      if (sums[i] != sum) host::Machine::get().note_fault("this sum would be rounded twice");
    }
    return narrow(sums[0], sums[1]);
  }
  static float widen(uint16_t v) { return host::half_table()[v]; }
  // Rounds to nearest even.  From 65520 (65504 + half a step) on the result is infinite.
  static uint16_t narrow_one(float f) {
    const auto sign = static_cast<uint16_t>(std::signbit(f) ? 0x8000 : 0);
    const float magnitude = std::fabs(f);
    if (std::isnan(f)) return 0x7fff;
    if (magnitude >= 65520.f) return sign | 0x7c00;
    if (magnitude < 6.103515625e-05f)  // subnormal: steps of 2^-24
      return sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(magnitude, 24)));
    uint32_t bits = 0;
    std::memcpy(&bits, &magnitude, 4);
    bits += 0xfff + ((bits >> 13) & 1);
    return sign | static_cast<uint16_t>((bits >> 13) - (112u << 10));
  }
};

struct BFloat16 : HostScalar<BFloat16> {
  static constexpr uint32_t kInfinity = 0x7f80;
  static float widen(uint16_t v) {
    const uint32_t bits = static_cast<uint32_t>(v) << 16;
    float f = 0;
    std::memcpy(&f, &bits, 4);
    return f;
  }
  static uint16_t narrow_one(float f) {
    if (std::isnan(f)) return 0x7fff;
    uint32_t bits = 0;
    std::memcpy(&bits, &f, 4);
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
};

}  // namespace patch
