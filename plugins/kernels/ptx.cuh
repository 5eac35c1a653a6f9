// One wrapper per hardware instruction.  No other file of the kernels has asm statements or CUDA intrinsics.
// Under PATCH_HOST_EMULATION, host/ptx_on_host.h defines the same names and the kernels run on a CPU.
#pragma once
#include <cstdint>
#ifdef PATCH_HOST_EMULATION
#include "host/ptx_on_host.h"
#else
#include <cuda_runtime.h>

#include "kernels/early_launches.h"

#define PATCH_DEVICE __device__ __forceinline__
#define PATCH_KERNEL(threads) __global__ void __launch_bounds__(threads)
// The same for so many blocks on an SM: how many registers a thread may have.
#define PATCH_KERNEL_OF(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define PATCH_SHARED(name) extern __shared__ __align__(128) uint8_t name[]
#define PATCH_UNROLL _Pragma("unroll")
#define PATCH_NO_UNROLL _Pragma("unroll 1")
#define PATCH_UNROLL_FOUR _Pragma("unroll 4")

namespace patch {

PATCH_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
PATCH_DEVICE int64_t block_index() { return blockIdx.x; }
PATCH_DEVICE void sync_block() { __syncthreads(); }
// A barrier that also returns true if `vote` is true in any thread of the block.
PATCH_DEVICE bool sync_block_any(bool vote) { return __syncthreads_or(vote) != 0; }

// Programmatic dependent launch (PTX ISA, "griddepcontrol"): a launch may begin before the launches before it
// have ended.  Each thread of each kernel waits for them before it touches what they may have written or may
// read.  A launch without the attribute (launch.cpp) has waited already.
PATCH_DEVICE void wait_for_earlier_launches() {
#ifdef __CUDA_ARCH__
  if constexpr (__CUDA_ARCH__ >= 10 * kFirstThatWaits) asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}
// The next launch may begin as soon as every block has come here or has ended.  Only for kernels that the
// same enqueue follows with another, which reads what they write.  A kernel behind the plugin may have the
// attribute and no wait, and would read Y before it is written.
PATCH_DEVICE void let_next_launch_begin() {
#ifdef __CUDA_ARCH__
  if constexpr (__CUDA_ARCH__ >= 10 * kFirstThatWaits)
    asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

// Returns the word of the lane that the low 5 bits of `lane` name.
PATCH_DEVICE uint32_t shuffle(uint32_t word, uint32_t lane) {
  return __shfl_sync(0xffffffffu, word, static_cast<int>(lane));
}
// prmt (PTX ISA 9.7.9.7): byte i of the result is the one of {high, low} that the low 3 bits of nibble i of
// `selector` name.  The nibble's top bit must be 0, and the upper half of the selector is ignored.
PATCH_DEVICE uint32_t select_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;\n" : "=r"(r) : "r"(low), "r"(high), "r"(selector));
  return r;
}
// (word & mask) | bits, which is one instruction.
PATCH_DEVICE uint32_t keep_bits(uint32_t word, uint32_t mask, uint32_t bits) {
  uint32_t r;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;\n" : "=r"(r) : "r"(word), "r"(mask), "r"(bits));
  return r;
}

PATCH_DEVICE uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// cp.async (PTX ISA, "cp.async"): with a src-size below the copy's it fills the rest of the destination with
// zeros, and with src-size 0 it reads nothing.  16-byte copies bypass L1 (.cg); smaller ones exist only as
// .ca.
//
// Offsets are immediate, so that one register addresses all copies of a thread.
//
// Copies 8 values of X, or fills with zeros what does not exist: all of them if not `low`, the upper four if
// not `high`.  `vector`: 8 to copy them at once, from an aligned address; 4 to make two copies.  The compiler
// must not see that two copies have one condition, or it makes a branch of it.
template <int Offset>
PATCH_DEVICE void copy_tokens_async(void* shared, const void* global, bool low, bool high, int vector) {
  asm volatile(
      "{\n.reg .pred %%p1, %%p2, %%p3;\n"
      "setp.eq.s32 %%p1, %5, 8;\nsetp.eq.s32 %%p2, %5, 4;\nsetp.lt.s32 %%p3, %5, 8;\n"
      "@%%p1 cp.async.cg.shared.global.L2::128B [%0+%6], [%1], 16, %2;\n"
      "@%%p2 cp.async.ca.shared.global.L2::128B [%0+%6], [%1], 8, %3;\n"
      "@%%p3 cp.async.ca.shared.global.L2::128B [%0+%7], [%1+8], 8, %4;\n}\n" ::"r"(shared_address(shared)),
      "l"(global), "r"(low ? 16 : 0), "r"(low ? 8 : 0), "r"(high ? 8 : 0), "r"(vector), "n"(Offset),
      "n"(Offset + 8)
      : "memory");
}
// L2 eviction policy for weights.
using Policy = uint64_t;
struct NoPolicy {};
PATCH_DEVICE Policy weights_read_once() {
  Policy p;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;\n" : "=l"(p));
  return p;
}
PATCH_DEVICE Policy weights_read_again() {
  Policy p;
  asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;\n" : "=l"(p));
  return p;
}
// Copies 16 bytes if they are `here`.
template <int Offset>
PATCH_DEVICE void copy_weights_async(void* shared, const void* global, Policy policy, bool here) {
  asm volatile(
      "{\n.reg .pred %%p1;\nsetp.ne.b32 %%p1, %3, 0;\n"
      "@%%p1 cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0+%4], [%1+%4], 16, %2;\n}\n" ::"r"(
          shared_address(shared)),
      "l"(global), "l"(policy), "r"(static_cast<int>(here)), "n"(Offset)
      : "memory");
}
// The same without a policy.
template <int Offset>
PATCH_DEVICE void copy_weights_async(void* shared, const void* global, NoPolicy, bool here) {
  asm volatile(
      "{\n.reg .pred %%p1;\nsetp.ne.b32 %%p1, %2, 0;\n"
      "@%%p1 cp.async.cg.shared.global.L2::128B [%0+%3], [%1+%3], 16;\n}\n" ::"r"(shared_address(shared)),
      "l"(global), "r"(static_cast<int>(here)), "n"(Offset)
      : "memory");
}
// Asks for weights in L2, where a launch may begin early.  bytes: a multiple of 16, as the address.
PATCH_DEVICE void request_weights(const uint8_t* global, uint32_t bytes, Policy policy) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global.L2::cache_hint [%0], %1, %2;\n" ::"l"(global), "r"(bytes),
               "l"(policy)
               : "memory");
#endif
}
// Copies 16 bytes of rounded X if they are `here`.
template <int Offset>
PATCH_DEVICE void copy_inputs_async(void* shared, const void* global, bool here) {
  asm volatile(
      "{\n.reg .pred %%p1;\nsetp.ne.b32 %%p1, %2, 0;\n"
      "@%%p1 cp.async.cg.shared.global.L2::128B [%0+%3], [%1], 16;\n}\n" ::"r"(shared_address(shared)),
      "l"(global), "r"(static_cast<int>(here)), "n"(Offset)
      : "memory");
}
PATCH_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
// Waits until at most the `Groups` latest groups of this thread are still in flight.
template <int Groups>
PATCH_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(Groups) : "memory");
}

// ldmatrix.x4: lanes 8j .. 8j + 7 give the row addresses of 8x8 matrix j.  Lane l gets row l / 4, columns
// 2 (l % 4) and 2 (l % 4) + 1.
template <int Offset>
PATCH_DEVICE void load_matrices(uint32_t (&r)[4], const uint8_t* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4+%5];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row)), "n"(Offset)
               : "memory");
}
// movmatrix.trans: transposes the warp's 8x8 matrix of 16-bit values, in the layout of ldmatrix.
PATCH_DEVICE uint32_t transpose_matrix(uint32_t r) {
  uint32_t t;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(t) : "r"(r));
  return t;
}

PATCH_DEVICE void load_shared(uint32_t (&r)[4], const void* p) {
  const uint4 v = *static_cast<const uint4*>(p);
  r[0] = v.x, r[1] = v.y, r[2] = v.z, r[3] = v.w;
}
PATCH_DEVICE void load_shared_two(uint32_t (&r)[2], const void* p) {
  const uint2 v = *static_cast<const uint2*>(p);
  r[0] = v.x, r[1] = v.y;
}
PATCH_DEVICE uint32_t load_shared_word(const void* p) { return *static_cast<const uint32_t*>(p); }
PATCH_DEVICE void store_shared_word(void* p, uint32_t v) { *static_cast<uint32_t*>(p) = v; }

PATCH_DEVICE int count_bits(uint32_t word) { return __popc(word); }
// Loads of what does not change while a network runs, such as weights.  The compiler may move them above
// wait_for_earlier_launches.
PATCH_DEVICE int32_t load_index(const int32_t* p) { return __ldg(p); }
PATCH_DEVICE uint16_t load_bias(const uint16_t* p) { return __ldg(p); }
PATCH_DEVICE float load_scale(const float* p) { return __ldg(p); }
PATCH_DEVICE uint8_t load_byte(const uint8_t* p) { return __ldg(p); }
PATCH_DEVICE uint16_t load_value(const uint16_t* p) { return __ldg(p); }
PATCH_DEVICE uint32_t load_word(const uint32_t* p) { return __ldg(p); }
// Loads of what an earlier launch may have written.
PATCH_DEVICE float load_written(const float* p) { return *p; }
PATCH_DEVICE uint16_t load_written(const uint16_t* p) { return *p; }
// Loads two values, aligned to 4 bytes.
PATCH_DEVICE uint32_t load_pair(const uint16_t* p) { return *reinterpret_cast<const uint32_t*>(p); }
// Loads four values, aligned to 8 bytes.
PATCH_DEVICE void load_four(uint32_t (&v)[2], const uint16_t* p) {
  const uint2 e = *reinterpret_cast<const uint2*>(p);
  v[0] = e.x, v[1] = e.y;
}
// Loads eight values, aligned to 16 bytes.
PATCH_DEVICE void load_eight(uint32_t (&v)[4], const uint16_t* p) {
  const uint4 e = *reinterpret_cast<const uint4*>(p);
  v[0] = e.x, v[1] = e.y, v[2] = e.z, v[3] = e.w;
}

// Both have a relative error of at most 2^-22 (PTX ISA 9.7.3, ex2 and rcp) and flush subnormals to 0.
PATCH_DEVICE float exp2_approximate(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(r) : "f"(x));
  return r;
}
PATCH_DEVICE float reciprocal(float x) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(r) : "f"(x));
  return r;
}

// Rounded once, and not made one operation with another.
PATCH_DEVICE float multiply_alone(float a, float b) { return __fmul_rn(a, b); }
PATCH_DEVICE float divide(float a, float b) { return __fdiv_rn(a, b); }
// The nearest integer, of two the even one.  x is finite, and its integer fits.
PATCH_DEVICE int32_t nearest_integer(float x) { return __float2int_rn(x); }

// Blocks pass partial sums to each other, so these accesses bypass L1.  `p` is aligned to 16 bytes.
PATCH_DEVICE void load_partials(float (&v)[4], const float* p) {
  const float4 f = __ldcg(reinterpret_cast<const float4*>(p));
  v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
}
PATCH_DEVICE void store_partials(float* p, const float (&v)[4]) {
  __stcg(reinterpret_cast<float4*>(p), make_float4(v[0], v[1], v[2], v[3]));
}
PATCH_DEVICE void load_partials(int32_t (&v)[4], const float* p) {
  const int4 i = __ldcg(reinterpret_cast<const int4*>(p));
  v[0] = i.x, v[1] = i.y, v[2] = i.z, v[3] = i.w;
}
PATCH_DEVICE void store_partials(float* p, const int32_t (&v)[4]) {
  __stcg(reinterpret_cast<int4*>(p), make_int4(v[0], v[1], v[2], v[3]));
}
// Returns the number of blocks that have arrived before this one.  Releases what this thread has written, and
// what others of the block had written at the last barrier; acquires what the arrived blocks have released,
// for this thread, and for others of the block after the next barrier (PTX ISA, "Memory Consistency Model":
// release and acquire patterns, and causality order through bar.sync).
PATCH_DEVICE int count_arrival(int32_t* counter) {
  int before;
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;\n"
               : "=r"(before)
               : "l"(__cvta_generic_to_global(counter))
               : "memory");
  return before;
}
PATCH_DEVICE void reset_counter(int32_t* counter) { *counter = 0; }

template <int Bytes>
struct Vector;
template <>
struct Vector<2> {
  using Type = uint16_t;
};
template <>
struct Vector<4> {
  using Type = uint32_t;
};
template <>
struct Vector<8> {
  using Type = uint2;
};
template <>
struct Vector<16> {
  using Type = uint4;
};
// `from`: in shared memory.
template <int Bytes>
PATCH_DEVICE void store_output(uint16_t* to, const uint16_t* from) {
  using V = typename Vector<Bytes>::Type;
  *reinterpret_cast<V*>(to) = *reinterpret_cast<const V*>(from);
}
PATCH_DEVICE void store_pair(uint16_t* to, uint32_t pair) { *reinterpret_cast<uint32_t*>(to) = pair; }
PATCH_DEVICE void store_value(uint16_t* to, uint16_t value) { *to = value; }
PATCH_DEVICE void store_eight(uint16_t* to, const uint32_t (&v)[4]) {
  *reinterpret_cast<uint4*>(to) = make_uint4(v[0], v[1], v[2], v[3]);
}

PATCH_DEVICE void store_scale(float* to, float scale) { *to = scale; }
// Stores 16 integers, aligned to 16 bytes.
PATCH_DEVICE void store_bytes(int8_t* to, const uint32_t (&v)[4]) {
  *reinterpret_cast<uint4*>(to) = make_uint4(v[0], v[1], v[2], v[3]);
}

// mma.m16n8k32 (PTX ISA 9.7.14.5.10) and mma.sp::ordered_metadata of m16n8k64 and m16n8k32 (9.7.14.6) of
// int8, int32 accumulators.  All lanes have metadata of k64, and the first two of every four have k32's.
PATCH_DEVICE void multiply_bytes(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
PATCH_DEVICE void multiply_bytes_sparse(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[4],
                                        uint32_t meta) {
  asm volatile(
      "mma.sp::ordered_metadata.sync.aligned.m16n8k64.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, "
      "{%4,%5,%6,%7}, {%8,%9,%10,%11}, {%0,%1,%2,%3}, %12, 0x0;\n"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), "r"(meta));
}
PATCH_DEVICE void multiply_bytes_sparse(int32_t (&c)[4], const uint32_t (&a)[2], uint32_t b0, uint32_t b1,
                                        uint32_t meta) {
  asm volatile(
      "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, "
      "{%4,%5}, {%6,%7}, {%0,%1,%2,%3}, %8, 0x0;\n"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(b0), "r"(b1), "r"(meta));
}

// mma.m16n8k16 (PTX ISA 9.7.14.5.8) and mma.sp::ordered_metadata.m16n8k32 (9.7.14.6), fp32 accumulators.
#define PATCH_MMA(TYPE)                                                       \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE         \
               ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n" \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])               \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
#define PATCH_MMA_SP(TYPE)                                                                               \
  asm volatile("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32." TYPE "." TYPE               \
               ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9,%10,%11}, {%0,%1,%2,%3}, %12, %13;\n"          \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                          \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]), \
                 "r"(meta), "n"(Selector))

struct Half {
  static constexpr uint32_t kInfinity = 0x7c00;
  PATCH_DEVICE static float widen(uint16_t v) {
    float f;
    asm("cvt.f32.f16 %0, %1;\n" : "=f"(f) : "h"(v));
    return f;
  }
  // Rounds two values into a pair, `lo` in the low half word.
  PATCH_DEVICE static uint32_t narrow(float lo, float hi) {
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
  }
  // Add and multiply two pairs, each value rounded once.
  PATCH_DEVICE static uint32_t add(uint32_t a, uint32_t b) {
    uint32_t r;
    asm("add.rn.f16x2 %0, %1, %2;\n" : "=r"(r) : "r"(a), "r"(b));
    return r;
  }
  PATCH_DEVICE static uint32_t multiply(uint32_t a, uint32_t b) {
    uint32_t r;
    asm("mul.rn.f16x2 %0, %1, %2;\n" : "=r"(r) : "r"(a), "r"(b));
    return r;
  }
  // a * b + c, rounded once.
  PATCH_DEVICE static uint32_t multiply_add(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t r;
    asm("fma.rn.f16x2 %0, %1, %2, %3;\n" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
  }
  PATCH_DEVICE static void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    PATCH_MMA("f16");
  }
  template <int Selector>
  PATCH_DEVICE static void mma_sp(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[4],
                                  uint32_t meta) {
    PATCH_MMA_SP("f16");
  }
};

struct BFloat16 {
  static constexpr uint32_t kInfinity = 0x7f80;
  PATCH_DEVICE static float widen(uint16_t v) { return __uint_as_float(static_cast<uint32_t>(v) << 16); }
  PATCH_DEVICE static uint32_t narrow(float lo, float hi) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
  }
  // add and mul of bf16x2 need sm_90: 1 * a + b, and a * b - 0, which changes no product.
  PATCH_DEVICE static uint32_t add(uint32_t a, uint32_t b) {
    uint32_t r;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;\n" : "=r"(r) : "r"(a), "r"(0x3f803f80u), "r"(b));
    return r;
  }
  PATCH_DEVICE static uint32_t multiply(uint32_t a, uint32_t b) {
    uint32_t r;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;\n" : "=r"(r) : "r"(a), "r"(b), "r"(0x80008000u));
    return r;
  }
  PATCH_DEVICE static void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    PATCH_MMA("bf16");
  }
  template <int Selector>
  PATCH_DEVICE static void mma_sp(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[4],
                                  uint32_t meta) {
    PATCH_MMA_SP("bf16");
  }
};
#undef PATCH_MMA
#undef PATCH_MMA_SP

}  // namespace patch
#endif
