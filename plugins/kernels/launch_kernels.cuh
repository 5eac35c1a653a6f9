// Every configuration of one scalar type, launched by its number.
#pragma once
#include <array>
#include <atomic>
#include <utility>

#include "kernels/launch.h"
#include "kernels/patch_linear.cuh"
#include "kernels/reduce_splits.cuh"

namespace patch {

// Above 48 KiB a kernel must be told, once per device.  Doing it twice is harmless, so no lock.
template <class T, int C>
cudaError_t allow_shared_memory() {
  static std::atomic<uint64_t> done{0};
  int device = 0;
  if (const cudaError_t e = cudaGetDevice(&device); e != cudaSuccess) return e;
  const uint64_t bit = uint64_t{1} << (device & 63);
  if (device < 64 && (done.load(std::memory_order_acquire) & bit)) return cudaSuccess;
  const cudaError_t e = cudaFuncSetAttribute(patch_linear<T, C>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             Geometry<C>::kSharedBytes);
  if (e == cudaSuccess && device < 64) done.fetch_or(bit, std::memory_order_release);
  return e;
}

template <class T>
cudaError_t launch_reduction(const LinearArguments& a, int panel_rows, cudaStream_t stream) {
  const int width = a.panels * panel_rows;
  const int64_t blocks = ceil_div(static_cast<int64_t>(a.tokens) * (width / 4), kReduceThreads);
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  reduce_splits<T><<<static_cast<unsigned>(blocks), kReduceThreads, 0, stream>>>(a, width);
  return cudaGetLastError();
}

template <class T, int C>
cudaError_t launch_config(const LinearArguments& a, cudaStream_t stream) {
  using G = Geometry<C>;
  const int64_t blocks = a.panels * ceil_div(a.tokens, G::kTokens);
  if (blocks > INT32_MAX || a.splits > 65535) return cudaErrorInvalidConfiguration;
  if (const cudaError_t e = allow_shared_memory<T, C>(); e != cudaSuccess) return e;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(a.splits));
  patch_linear<T, C><<<grid, G::kThreads, G::kSharedBytes, stream>>>(a);
  if (const cudaError_t e = cudaGetLastError(); e != cudaSuccess || a.splits == 1) return e;
  return launch_reduction<T>(a, G::kPanelRows, stream);
}

template <class T, int... C>
cudaError_t launch_by_number(const LinearArguments& a, int config, cudaStream_t stream,
                             std::integer_sequence<int, C...>) {
  using Launcher = cudaError_t (*)(const LinearArguments&, cudaStream_t);
  static constexpr std::array<Launcher, sizeof...(C)> kLaunchers{launch_config<T, C>...};
  if (config < 0 || config >= static_cast<int>(kLaunchers.size())) return cudaErrorInvalidConfiguration;
  return kLaunchers[config](a, stream);
}

template <class T>
cudaError_t launch_scalar(const LinearArguments& a, int config, cudaStream_t stream) {
  return launch_by_number<T>(a, config, stream, std::make_integer_sequence<int, kConfigCount>());
}

}  // namespace patch
