// Launches configurations of one scalar type, or of AnyScalar, by their number.
#pragma once
#include <array>
#include <utility>

#include "kernels/launch.h"
#include "kernels/stream_kernel.cuh"
#include "kernels/tile_kernel.cuh"

namespace patch {

template <class T, int C>
cudaError_t launch_config(const StreamArguments& s, cudaStream_t stream) {
  using G = Geometry<C>;
  const LinearArguments& a = s.linear;
  if constexpr (G::kKernel == Kernel::kStream) {
    if (a.parts > kMostParts) return cudaErrorInvalidConfiguration;
    return start(&patch_stream<T, C>, s, a.parts, G::kThreads, G::kSharedBytes, stream);
  } else {
    if (a.parts != 1) return cudaErrorInvalidConfiguration;
    return start(&patch_tiles<T, C>, a, a.panels * ceil_div(a.tokens, G::kTokens), G::kThreads,
                 G::kSharedBytes, stream);
  }
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
