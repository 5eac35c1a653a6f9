// For test_decode_of_sixteen.py: writes the A fragments that the decoder of n:16 slabs gives to mma. Compiled
// by nvcc, and for the host emulation by a C++ compiler.
#include "kernels/config.h"
#include "kernels/decode_of_sixteen.cuh"

namespace patch {

// In place of Half or BFloat16: hands out the operand.
struct Recorder {
  PATCH_DEVICE static void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t, uint32_t) {
    for (int i = 0; i < 4; ++i) __builtin_memcpy(&c[i], &a[i], 4);
  }
};

struct UnpackedSlabs {
  const uint32_t* packed;  // [slabs][values, masks]
  float* fragments;        // [slabs][k16: 4][16-row block][lane: 32][4 words]
  int32_t slabs;
};

template <int C, int Kept>
PATCH_KERNEL(Geometry<C>::kThreads)
unpack_slabs(const UnpackedSlabs a) {
  using G = Geometry<C>;
  using Decoder = OfSixteen<Recorder, G, Kept>;
  constexpr int kWords = (Decoder::kValueBytes + Decoder::kExtraBytes) / 4;
  wait_for_earlier_launches();
  PATCH_SHARED(shared);
  const Place<G> at;
  Decoder weights;
  for (int slab = 0; slab < a.slabs; ++slab) {
    for (int i = at.thread; i < kWords; i += G::kThreads)
      store_shared_word(shared + i * 4, load_word(a.packed + slab * kWords + i));
    sync_block();
    weights.template load<0>(shared, at);
    weights.begin_slab();
    for_each_index<4>([&](auto index) {
      constexpr int step = decltype(index)::value;
      if constexpr (step > 0) weights.template load<step>(shared, at);
      if (at.token_warp > 0) return;
      for (int m = 0; m < G::kWarpRows; ++m) {
        float words[4];
        weights.template multiply<step>(words, m, 0, 0);
        const int block = (slab * 4 + step) * G::kRowBlocks + at.feature_warp * G::kWarpRows + m;
        store_partials(a.fragments + (block * 32 + at.lane) * 4, words);
      }
    });
    sync_block();
  }
}

}  // namespace patch

// Configuration and n of each kernel: one, two and four row blocks a warp, with four or two buffers of
// fragments.
#define CASES(CASE) CASE(0, 8) CASE(0, 12) CASE(3, 12) CASE(5, 8)

#ifdef PATCH_HOST_EMULATION
#include <string>

namespace patch::host {
namespace {

std::string last_error;

template <int C, int Kept>
std::string unpack(const UnpackedSlabs& a) {
  using G = Geometry<C>;
  static Machine machine;
  const size_t rows = static_cast<size_t>(a.slabs) * G::kPanelRows;
  machine.global = {};
  machine.global.add("packed", a.packed, rows * (2 * Kept + 2) * 4, 4, GlobalMemory::Use::kInput);
  machine.global.add("fragments", a.fragments, rows * 32 * 4, 4, GlobalMemory::Use::kExchange);
  return machine.run({1, 0, G::kThreads, G::kSlabBytes}, CopyMode::kLazy, 1,
                     [&] { unpack_slabs<C, Kept>(a); });
}

}  // namespace
}  // namespace patch::host

extern "C" const char* unpack_error() { return patch::host::last_error.c_str(); }
extern "C" int unpack_on_host(int config, int kept, const patch::UnpackedSlabs* a) {
  using namespace patch::host;
  last_error = "no such case";
#define CASE(C, N) \
  if (config == C && kept == N) last_error = unpack<C, N>(*a);
  CASES(CASE)
  return last_error.empty() ? 0 : 1;
}
#else
#define CASE(C, N) template __global__ void patch::unpack_slabs<C, N>(const patch::UnpackedSlabs);
CASES(CASE)
#endif
