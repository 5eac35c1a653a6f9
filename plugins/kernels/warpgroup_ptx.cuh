// One wrapper per hardware instruction that only the kernel for sm_90a needs; ptx.cuh has the others.
// In quotes: the section of the PTX ISA.
#pragma once
#include "kernels/ptx.cuh"

// A kernel whose blocks run in clusters of this many.
#define PATCH_CLUSTER(blocks) __cluster_dims__(blocks, 1, 1)

namespace patch {

// The dynamic shared memory from the next address that a matrix descriptor's swizzle can begin at.
inline constexpr int kSwizzleBytes = 1024;
PATCH_DEVICE uint8_t* swizzle_aligned(uint8_t* shared) {
  return shared + (-shared_address(shared) & (kSwizzleBytes - 1));
}

// A barrier in shared memory, whose phases end when all arrivals and bytes have come ("mbarrier").
using Mbarrier = uint64_t;

// "mbarrier.init"
PATCH_DEVICE void init_mbarrier(Mbarrier* bar, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(bar)), "r"(arrivals)
               : "memory");
}
// "bar.warp.sync": what the lanes of the warp have read and written comes before what any of them does next.
PATCH_DEVICE void sync_warp() { __syncwarp(); }
// "mbarrier.arrive", which releases what the thread has done before, and what it knows by sync_warp.
PATCH_DEVICE void arrive(Mbarrier* bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(bar)) : "memory");
}
// "mbarrier.arrive" with .expect_tx: the phase also waits for `bytes` of bulk copies.
PATCH_DEVICE void arrive_expecting(Mbarrier* bar, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(bar)),
               "r"(bytes)
               : "memory");
}
// "mbarrier.try_wait": waits for the end of the phase of this parity; the first phase is 0.
PATCH_DEVICE void wait_phase(Mbarrier* bar, uint32_t parity) {
  uint32_t done = 0;
  while (!done)
    asm volatile(
        "{\n.reg .pred %%p1;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 %%p1, [%1], %2;\nselp.u32 %0, 1, 0, %%p1;\n}\n"
        : "=r"(done)
        : "r"(shared_address(bar)), "r"(parity)
        : "memory");
}
// "fence.proxy.async": what this thread has written or seen through the generic proxy, wgmma and bulk
// copies see too.
PATCH_DEVICE void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }

// "cp.async.bulk": copies `bytes`, a multiple of 16, and counts them at `bar` when they are there.
PATCH_DEVICE void copy_bulk(void* shared, const void* global, int bytes, Mbarrier* bar) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(
          shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(bar))
      : "memory");
}

// 9.7.15.5.1.2.2 "Matrix descriptor format": a matrix in shared memory with K along its rows of 128 bytes, in
// the 128-byte swizzle. Bits 0-13: address / 16; 16-29: leading dimension's offset, which this layout does
// not use; 32-45: offset of the next 8 rows / 16; 49-51: 0, because the swizzle begins at a multiple of 1024
// bytes; 62-63: 1, the 128-byte swizzle.
using Matrix = uint64_t;
PATCH_DEVICE Matrix describe_matrix(const void* rows) {
  constexpr uint64_t kLayout = uint64_t{1} << 62 | uint64_t{8 * 128 / 16} << 32 | uint64_t{1} << 16;
  return kLayout | (shared_address(rows) & 0x3ffff) >> 4;
}
// The same matrix from `bytes` further along its rows, inside the first 128.
PATCH_DEVICE Matrix further_along(Matrix matrix, int bytes) { return matrix + bytes / 16; }

// A cluster's blocks share barriers and copies.  "%cluster_ctarank": the number of this block in its cluster.
PATCH_DEVICE int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
  return static_cast<int>(rank);
}
// "mapa" and "mbarrier.arrive": arrives at the same barrier of block `rank` of the cluster.
PATCH_DEVICE void arrive_at(Mbarrier* bar, int rank) {
  asm volatile(
      "{\n.reg .b32 %%a;\nmapa.shared::cluster.u32 %%a, %0, %1;\n"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%%a];\n}\n" ::"r"(shared_address(bar)),
      "r"(rank)
      : "memory");
}
// "cp.async.bulk" with .multicast::cluster: to the same place in all blocks of `mask`, whose barriers count
// it.
PATCH_DEVICE void copy_bulk_to(void* shared, const void* global, int bytes, Mbarrier* bar, int mask) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
      " [%0], [%1], %2, [%3], %4;\n" ::"r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(bar)), "h"(static_cast<uint16_t>(mask))
      : "memory");
}
// "fence.mbarrier_init": the cluster's other blocks see the barriers that this thread has made.
PATCH_DEVICE void fence_mbarriers() { asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory"); }
// "barrier.cluster": a barrier of all threads of the cluster.
PATCH_DEVICE void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;\n" ::
                   : "memory");
}

// "setmaxnreg": a warpgroup gives registers back, or waits until it has more.
template <int Registers>
PATCH_DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(Registers));
}
template <int Registers>
PATCH_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(Registers));
}

// 9.7.15.7.1 "wgmma.fence": products see what was written to their registers before.
PATCH_DEVICE void fence_products() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
// 9.7.15.7.2 "wgmma.commit_group"
PATCH_DEVICE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
// 9.7.15.7.3 "wgmma.wait_group": waits until at most the `Groups` latest groups are still in flight.
template <int Groups>
PATCH_DEVICE void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(Groups) : "memory");
}
// The compiler may not move accesses to the sums across this.  It belongs after wait_products<0>, whose asm
// does not name the sums.
template <int N>
PATCH_DEVICE void pin(float (&c)[N][4]) {
  PATCH_UNROLL
  for (int n = 0; n < N; ++n)
    asm volatile("" : "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])::"memory");
}

// 9.7.15.5.2 "wgmma.mma_async" of 64 rows of W from registers and N tokens in shared memory, and 9.7.15.6.4
// "wgmma.mma_async.sp". A warp has 16 of the rows. Its registers of A are those of mma.m16n8k16
// (9.7.15.5.1.1) and of mma.sp.m16n8k32 (9.7.15.6.3), its metadata too: the selector names the first or
// second pair of each four lanes; low half word for row g, high half word for row g + 8; the pair's first
// lane for columns 0 - 15, its second for 16 - 31. Sums are those of mma for every 8 tokens.
#define PATCH_D64                                                    \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"           \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31," \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define PATCH_D128                                                     \
  PATCH_D64                                                            \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"  \
  "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"   \
  "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109," \
  "%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,"  \
  "%123,%124,%125,%126,%127"
#define PATCH_C1(n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define PATCH_C4(n) PATCH_C1(n), PATCH_C1(n + 1), PATCH_C1(n + 2), PATCH_C1(n + 3)
#define PATCH_C16(n) PATCH_C4(n), PATCH_C4(n + 4), PATCH_C4(n + 8), PATCH_C4(n + 12)
#define PATCH_C32(n) PATCH_C16(n), PATCH_C16(n + 16)
// A0 .. : the numbers of the operands after the sums.
#define PATCH_WGMMA(N, TYPE, D, SUMS, A0, A1, A2, A3, X, YES)                                                \
  asm volatile("{\n.reg .pred %%p1;\nsetp.ne.b32 %%p1, " YES                                                 \
               ", 0;\n"                                                                                      \
               "wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE " {" D "}, {" A0 "," A1 "," A2 \
               "," A3 "}, " X ", %%p1, 1, 1, 0;\n}\n"                                                        \
               : SUMS                                                                                        \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(x), "n"(1))
#define PATCH_WGMMA_SP(N, TYPE, D, SUMS, A0, A1, A2, A3, X, META, SELECTOR, YES)                         \
  asm volatile("{\n.reg .pred %%p1;\nsetp.ne.b32 %%p1, " YES                                             \
               ", 0;\n"                                                                                  \
               "wgmma.mma_async.sp.sync.aligned.m64n" N "k32.f32." TYPE "." TYPE " {" D "}, {" A0 "," A1 \
               "," A2 "," A3 "}, " X ", " META ", " SELECTOR ", %%p1, 1, 1, 0;\n}\n"                     \
               : SUMS                                                                                    \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(x), "r"(meta), "n"(Selector), "n"(1))

#define PATCH_PRODUCTS(TYPE)                                                                                 \
  PATCH_DEVICE static void multiply(float (&c)[16][4], const uint32_t (&a)[4], Matrix x) {                   \
    PATCH_WGMMA("128", TYPE, PATCH_D64, PATCH_C16(0), "%64", "%65", "%66", "%67", "%68", "%69");             \
  }                                                                                                          \
  PATCH_DEVICE static void multiply(float (&c)[32][4], const uint32_t (&a)[4], Matrix x) {                   \
    PATCH_WGMMA("256", TYPE, PATCH_D128, PATCH_C32(0), "%128", "%129", "%130", "%131", "%132", "%133");      \
  }                                                                                                          \
  template <int Selector>                                                                                    \
  PATCH_DEVICE static void multiply_sp(float (&c)[16][4], const uint32_t (&a)[4], Matrix x, uint32_t meta) { \
    PATCH_WGMMA_SP("128", TYPE, PATCH_D64, PATCH_C16(0), "%64", "%65", "%66", "%67", "%68", "%69", "%70",    \
                   "%71");                                                                                   \
  }                                                                                                          \
  template <int Selector>                                                                                    \
  PATCH_DEVICE static void multiply_sp(float (&c)[32][4], const uint32_t (&a)[4], Matrix x, uint32_t meta) { \
    PATCH_WGMMA_SP("256", TYPE, PATCH_D128, PATCH_C32(0), "%128", "%129", "%130", "%131", "%132", "%133",    \
                   "%134", "%135");                                                                          \
  }

// Products of a warpgroup by the type of W and X.
template <class T>
struct Warpgroup;
template <>
struct Warpgroup<Half> {
  PATCH_PRODUCTS("f16")
};
template <>
struct Warpgroup<BFloat16> {
  PATCH_PRODUCTS("bf16")
};
#undef PATCH_PRODUCTS
#undef PATCH_WGMMA_SP
#undef PATCH_WGMMA
#undef PATCH_C32
#undef PATCH_C16
#undef PATCH_C4
#undef PATCH_C1
#undef PATCH_D128
#undef PATCH_D64

}  // namespace patch
