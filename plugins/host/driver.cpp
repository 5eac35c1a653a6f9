// C interface of the host emulation, for the tests.
#include <exception>
#include <iterator>
#include <string>
#include <utility>

#include "host/call.h"
#include "kernels/quantise_kernel.cuh"
#include "kernels/schedule.h"
#include "kernels/stream_kernel.cuh"
#include "kernels/tile_kernel.cuh"

// Bit i includes configuration i.  Mutation tests compile only a few of them to save time.
#ifndef PATCH_HOST_CONFIGS
#define PATCH_HOST_CONFIGS 0xffffffffffff
#endif
// The same for types: bit 0 is fp16, bit 1 bf16.
#ifndef PATCH_HOST_SCALARS
#define PATCH_HOST_SCALARS 3
#endif

namespace patch::host {
namespace {

std::string last_error;

// A kind's two tensors, as they are called in faults.
std::string values_name(int kind) {
  return kind == 0 ? "dense" : kind == 1 ? "sparse" : "values of kind " + std::to_string(kind);
}
std::string extra_name(int kind) { return kind == 1 ? "meta" : "codes of kind " + std::to_string(kind); }

void add_tensors(GlobalMemory* memory, const Call& c) {
  using Use = GlobalMemory::Use;
  const LinearArguments& a = c.arguments;
  const Config& config = kConfigs[c.config];
  const size_t tokens = a.tokens;
  if (config.weights == Weights::kW8A8) {
    memory->add("rounded X", a.rounded, tokens * padded_columns(a.in_features), 1, Use::kInput);
    memory->add("token scales", a.token_scales, tokens * 4, 4, Use::kInput);
  } else {
    memory->add("X", a.x, tokens * a.in_features * 2, 2, Use::kInput);
  }
  for (int kind = 0; kind < config.kinds; ++kind) {
    if (a.slabs[kind].values)
      memory->add(values_name(kind), a.slabs[kind].values, c.slab_values[kind] * 2, 2, Use::kConstant);
    if (a.slabs[kind].extra)
      memory->add(extra_name(kind), a.slabs[kind].extra, c.slab_words[kind] * 4, 4, Use::kConstant);
  }
  memory->add("index", a.index, c.index_words * 4, 4, Use::kConstant);
  const size_t rows = size_t{1} * a.out_features << a.gated;
  if (a.scales) memory->add("scales", a.scales, size_t{4} * a.panels * config.panel_rows, 4, Use::kConstant);
  if (a.bias) memory->add("bias", a.bias, rows * 2, 2, Use::kConstant);
  if (a.residual) memory->add("residual", a.residual, tokens * a.out_features * 2, 2, Use::kInput);
  memory->add("Y", a.y, tokens * a.out_features * 2, 2, Use::kOutput);
  if (a.parts <= 1) return;
  memory->add("partials", a.partials, c.partial_values * 4, 4, Use::kExchange);
  memory->add("counters", a.counters, c.counter_words * 4, 4, Use::kCounter);
}

// Rounds X, as the launch of a configuration of w8a8 does first.
std::string quantise(Machine* m, const Call& c) {
  using Use = GlobalMemory::Use;
  const QuantiseArguments a(c.arguments);
  m->global = {};
  m->global.add("X", a.x, size_t{2} * a.tokens * a.in_features, 2, Use::kInput);
  m->global.add("rounded X", a.rounded, a.tokens * padded_columns(a.in_features), 1, Use::kWorkspace);
  m->global.add("token scales", a.scales, size_t{4} * a.tokens, 4, Use::kWorkspace);
  std::string error = m->run({a.blocks(), 0, kQuantiseThreads, kQuantiseShared}, CopyMode::kLazy, c.seed,
                             [&] { patch_quantise(a); });
  if (error.empty()) error = m->global.complete("rounded X") + m->global.complete("token scales");
  m->global = {};
  return error;
}

template <class T, int C>
std::string run_config(Machine* m, const Call& c) {
  if constexpr ((uint64_t{PATCH_HOST_CONFIGS} >> C & 1) == 0) {
    return "this build leaves the configuration out";
  } else {
    using G = Geometry<C>;
    const LinearArguments& a = c.arguments;
    const auto mode = static_cast<CopyMode>(c.copy_mode);
    constexpr bool kTiles = G::kKernel == Kernel::kTile;
    const int64_t blocks = kTiles ? a.panels * ceil_div(a.tokens, G::kTokens) : a.parts;
    StreamArguments stream{a, {}};
    if (!kTiles && c.table) stream.table = *c.table;
    if (!kTiles && !c.table) make_parts(&stream.table, a, a.index, kConfigs[C]);
    using Type = std::conditional_t<G::kWeights == Weights::kW8A8, AnyScalar, T>;
    const auto kernel = [&] {
      if constexpr (kTiles)
        patch_tiles<Type, C>(a);
      else
        patch_stream<Type, C>(stream);
    };
    return m->run({blocks, c.first_block, G::kThreads, G::kSharedBytes}, mode, c.seed, kernel);
  }
}

template <class T, Scalar S, int... C>
std::string run_by_number(Machine* m, const Call& c, std::integer_sequence<int, C...>) {
  if constexpr ((PATCH_HOST_SCALARS >> static_cast<int>(S) & 1) == 0) {
    return "this build leaves the type out";
  } else {
    std::string error = "no such configuration";
    ((C == c.config ? (error = run_config<T, C>(m, c), 0) : 0), ...);
    return error;
  }
}

std::string run(const Call& c, Machine* m) {
  Call call = c;
  call.arguments.set_slabs(c.arguments.counts(), kConfigs[c.config].panel_rows, kConfigs[c.config].weights);
  call.arguments.scalar = static_cast<Scalar>(c.scalar);
  if (!choose_vectors(&call.arguments)) return "misaligned arguments";
  if (kConfigs[c.config].weights == Weights::kW8A8) {
    const std::string error = quantise(m, call);
    if (!error.empty()) return error;
  }
  add_tensors(&m->global, call);
  // Kernels add to the address of a tensor that a kind does not have, and don't follow it.  Here it is no
  // null.
  for (Slabs& own : call.arguments.slabs)
    if (!own.extra) own.extra = reinterpret_cast<const uint32_t*>(own.values);
  const auto numbers = std::make_integer_sequence<int, kConfigCount>();
  std::string error = static_cast<Scalar>(c.scalar) == Scalar::kHalf
                          ? run_by_number<Half, Scalar::kHalf>(m, call, numbers)
                          : run_by_number<BFloat16, Scalar::kBFloat16>(m, call, numbers);
  if (!error.empty()) return error;
  const std::string missing = c.first_block ? "" : m->global.complete("Y");
  return missing.empty() ? m->global.counters_reset() : missing;
}

}  // namespace
}  // namespace patch::host

extern "C" {

// Runs one PatchLinear.  Returns 0 if no check found a fault.  Not reentrant.
int patch_host_run(const patch::host::Call* call, patch::host::Stats* stats) {
  static patch::host::Machine machine;  // static, so that all runs reuse its stacks and shared memory
  machine.global = {};
  machine.stats = {};
  try {
    patch::host::last_error = patch::host::run(*call, &machine);
  } catch (const std::exception& e) {
    patch::host::last_error = e.what();
  }
  *stats = machine.stats;
  return patch::host::last_error.empty() ? 0 : 1;
}

const char* patch_host_error() { return patch::host::last_error.c_str(); }

int patch_host_config_count() { return patch::kConfigCount; }
const char* patch_host_config_name(int i) { return patch::kConfigs[i].name; }
void patch_host_config(int i, int32_t* out) {
  const patch::Config& c = patch::kConfigs[i];
  const int32_t fields[] = {c.panel_rows,
                            c.tokens,
                            c.feature_warps,
                            c.token_warps,
                            c.stages,
                            c.blocks_per_sm,
                            c.kernel == patch::Kernel::kStream,
                            patch::shared_bytes(c),
                            c.kinds,
                            static_cast<int32_t>(c.weights)};
  std::copy(std::begin(fields), std::end(fields), out);
}

void patch_host_schedule(const patch::Problem* problem, const patch::Device* device, int config,
                         int32_t* chosen) {
  const patch::Schedule s = patch::choose_schedule(*problem, *device, config);
  chosen[0] = s.config, chosen[1] = s.parts;
}
int64_t patch_host_partial_bytes(int config, int parts) {
  return static_cast<int64_t>(patch::partial_bytes(patch::kConfigs[config], parts));
}
int64_t patch_host_workspace_bound(const patch::Problem* problem) {
  return static_cast<int64_t>(patch::workspace_bound(*problem));
}

int patch_host_slabs_before(int64_t offset, const patch::SlabCounts* slabs, int weights) {
  return patch::slabs_before(offset, *slabs, static_cast<patch::Weights>(weights));
}
// The table of parts of a stream.
void patch_host_make_parts(const patch::LinearArguments* a, int config, patch::PartTable* table) {
  patch::make_parts(table, *a, a->index, patch::kConfigs[config]);
}
// Tile, slab and column where a part begins.
void patch_host_part(const patch::PartTable* table, int part, int32_t* out) {
  out[0] = patch::part_tile(*table, part), out[1] = patch::part_slab(*table, part),
  out[2] = patch::part_column(*table, part);
}
uint32_t patch_host_narrow(int scalar, float v) {
  return (scalar == 0 ? patch::Half::narrow_one(v) : patch::BFloat16::narrow_one(v));
}
float patch_host_widen(int scalar, uint16_t v) {
  return scalar == 0 ? patch::Half::widen(v) : patch::BFloat16::widen(v);
}

// Runs one fp16 mma.sp in one warp.  a, b: [32 lanes][4 words]; meta: [32]; c: [32][4], in and out.
int patch_host_mma_sp(int selector, const uint32_t* a, const uint32_t* b, const uint32_t* meta, float* c) {
  patch::host::Machine machine;
  patch::host::last_error = machine.run({1, 0, 32, 0}, patch::host::CopyMode::kLazy, 1, [&] {
    patch::wait_for_earlier_launches();
    const int l = patch::thread_index();
    uint32_t ra[4], rb[4];
    float rc[4];
    std::copy_n(a + l * 4, 4, ra), std::copy_n(b + l * 4, 4, rb), std::copy_n(c + l * 4, 4, rc);
    selector == 0 ? patch::Half::mma_sp<0>(rc, ra, rb, meta[l]) : patch::Half::mma_sp<1>(rc, ra, rb, meta[l]);
    std::copy_n(rc, 4, c + l * 4);
  });
  return patch::host::last_error.empty() ? 0 : 1;
}

// The same with mma of w8a8; a and b have the words of the deepest one.  sparse: columns of mma.sp, or 0.
int patch_host_multiply_bytes(int sparse, const uint32_t* a, const uint32_t* b, const uint32_t* meta,
                              int32_t* c) {
  patch::host::Machine machine;
  patch::host::last_error = machine.run({1, 0, 32, 0}, patch::host::CopyMode::kLazy, 1, [&] {
    patch::wait_for_earlier_launches();
    const int l = patch::thread_index();
    uint32_t ra[4], rb[4];
    int32_t rc[4];
    std::copy_n(a + l * 4, 4, ra), std::copy_n(b + l * 4, 4, rb), std::copy_n(c + l * 4, 4, rc);
    if (sparse == 64)
      patch::multiply_bytes_sparse(rc, ra, rb, meta[l]);
    else if (sparse == 32)
      patch::multiply_bytes_sparse(rc, {ra[0], ra[1]}, rb[0], rb[1], meta[l]);
    else
      patch::multiply_bytes(rc, ra, rb[0], rb[1]);
    std::copy_n(rc, 4, c + l * 4);
  });
  return patch::host::last_error.empty() ? 0 : 1;
}

}  // extern "C"
