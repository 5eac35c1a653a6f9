// Launches PatchLinear on a CUDA stream.  Neither allocates nor waits, so it is safe inside a CUDA graph
// capture.
#pragma once
#include <cuda_runtime_api.h>

#include "kernels/arguments.h"
#include "kernels/dense_path.h"
#include "kernels/parts.h"
#include "kernels/schedule.h"

namespace patch {

// Gets the properties of the current device that schedules depend on.  Asks the driver once per device.
cudaError_t current_device(Device* device) noexcept;

// Fills in a.parts, a.scalar, a.x_vector and a.y_vector from `schedule` and the pointers.  table: of the
// parts, made by make_parts for the same sizes and schedule; a tile kernel does not look at it.  Returns
// cudaErrorMisalignedAddress for pointers that the kernel can't use, cudaErrorInvalidConfiguration for a grid
// beyond CUDA's limit, cudaErrorInvalidValue for w8a8 without memory for rounded X, and
// cudaErrorInvalidDeviceFunction for kernels that this library lacks.
cudaError_t launch(LinearArguments a, const PartTable& table, Scalar scalar, const Schedule& schedule,
                   cudaStream_t stream) noexcept;

// Launches a kernel with so many bytes of shared memory.  It may begin before earlier launches have ended if
// its code waits for them.  Returns cudaErrorInvalidConfiguration for a grid beyond CUDA's limit.
cudaError_t start_kernel(const void* kernel, void* arguments, int64_t blocks, int threads, int shared_bytes,
                         cudaStream_t stream) noexcept;
template <class Arguments>
cudaError_t start(void (*kernel)(Arguments), const Arguments& a, int64_t blocks, int threads,
                  int shared_bytes, cudaStream_t stream) noexcept {
  return start_kernel(reinterpret_cast<const void*>(kernel), const_cast<Arguments*>(&a), blocks, threads,
                      shared_bytes, stream);
}

// The kernels of config.h, by the weights that they multiply.  Each group is a file for each type of X, or
// for both (launch_*.cu), so that they compile in parallel, and so that a library is linked with those that
// an engine runs: the others are not known there.
enum class Group : int8_t { kPatch, kAll, kInt8, kW8A8, kInt4 };
inline constexpr int kGroupCount = 5;
// kinds: the number that kinds_for returns.
constexpr Group group_of(Weights weights, int kinds) {
  switch (weights) {
    case Weights::kInt8:
      return Group::kInt8;
    case Weights::kW8A8:
      return Group::kW8A8;
    case Weights::kInt4:
      return Group::kInt4;
    default:
      return kinds == kPatchKinds ? Group::kPatch : Group::kAll;
  }
}
// Launches one of a group's configurations by its number.  Of w8a8, kOnlyRounds rounds X and multiplies
// nothing.
inline constexpr int kOnlyRounds = -1;
using Launcher = cudaError_t (*)(const StreamArguments& s, int config, cudaStream_t stream);
// Makes a group known.  Its file calls this when the library is loaded.  Returns true.
bool add_launcher(Scalar scalar, Group group, Launcher launcher) noexcept;
// Returns false if this library was linked without the group.
bool has_kernels(Scalar scalar, Group group) noexcept;

// Launch the kernels before and after a dense product.  Return errors as above.  launch_rounding is of w8a8.
cudaError_t launch_rounding(LinearArguments a, Scalar scalar, cudaStream_t stream) noexcept;
cudaError_t launch_unpack(const UnpackArguments& a, cudaStream_t stream) noexcept;
cudaError_t launch_activate(const ActivateArguments& a, Scalar scalar, cudaStream_t stream) noexcept;

}  // namespace patch
