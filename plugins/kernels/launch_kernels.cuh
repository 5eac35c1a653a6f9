// Launches configurations of one scalar type by their number.
#pragma once
#include <array>
#include <utility>

#include "kernels/launch.h"
#include "kernels/launch_memory.cuh"
#include "kernels/stream_kernel.cuh"
#include "kernels/tile_kernel.cuh"

namespace patch {

template <class T, int C>
constexpr auto kernel_of() {
  if constexpr (Geometry<C>::kKernel == Kernel::kStream)
    return &patch_stream<T, C>;
  else
    return &patch_tiles<T, C>;
}

template <class T, int C>
cudaError_t launch_config(const StreamArguments& s, cudaStream_t stream) {
  using G = Geometry<C>;
  const LinearArguments& a = s.linear;
  const bool tiles = G::kKernel == Kernel::kTile;
  const int64_t blocks = tiles ? a.panels * ceil_div(a.tokens, G::kTokens) : a.parts;
  if (blocks > (tiles ? INT32_MAX : kMostParts) || (tiles && a.parts != 1))
    return cudaErrorInvalidConfiguration;
  if (const cudaError_t e = allow_shared_memory<kernel_of<T, C>()>(G::kSharedBytes); e != cudaSuccess)
    return e;
  // Unlike <<<>>> with cudaGetLastError(), this leaves an earlier error to the application that caused it.
  void* arguments[] = {tiles ? static_cast<void*>(const_cast<LinearArguments*>(&a))
                             : static_cast<void*>(const_cast<StreamArguments*>(&s))};
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel_of<T, C>()),
                          dim3(static_cast<unsigned>(blocks)), dim3(G::kThreads), arguments, G::kSharedBytes,
                          stream);
}

template <class T, int First, int... C>
cudaError_t launch_by_number(const StreamArguments& s, int config, cudaStream_t stream,
                             std::integer_sequence<int, C...>) {
  using Launcher = cudaError_t (*)(const StreamArguments&, cudaStream_t);
  static constexpr std::array<Launcher, sizeof...(C)> kLaunchers{launch_config<T, First + C>...};
  const int number = config - First;
  if (number < 0 || number >= static_cast<int>(kLaunchers.size())) return cudaErrorInvalidConfiguration;
  return kLaunchers[number](s, stream);
}

// Launches one of the configurations First .. End - 1.
template <class T, int First, int End>
cudaError_t launch_scalar(const StreamArguments& s, int config, cudaStream_t stream) {
  return launch_by_number<T, First>(s, config, stream, std::make_integer_sequence<int, End - First>());
}

}  // namespace patch
