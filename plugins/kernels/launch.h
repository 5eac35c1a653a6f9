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

// Fills in a.parts, a.x_vector and a.y_vector from `schedule` and the pointers.  table: of the parts, made by
// make_parts for the same sizes and schedule; a tile kernel does not look at it.  Returns
// cudaErrorMisalignedAddress for pointers that the kernel can't use, and cudaErrorInvalidConfiguration for a
// grid beyond CUDA's limit.
cudaError_t launch(LinearArguments a, const PartTable& table, Scalar scalar, const Schedule& schedule,
                   cudaStream_t stream) noexcept;

// One per scalar type, each in its own file so that they compile in parallel.
cudaError_t launch_half(const StreamArguments& s, int config, cudaStream_t stream) noexcept;
cudaError_t launch_bfloat16(const StreamArguments& s, int config, cudaStream_t stream) noexcept;
// The configurations for all kinds of slabs: from kPatchConfigCount on, those for int8 from kFirstInt8 on,
// those for int4 from kFirstInt4 on.
cudaError_t launch_all_half(const StreamArguments& s, int config, cudaStream_t stream) noexcept;
cudaError_t launch_all_bfloat16(const StreamArguments& s, int config, cudaStream_t stream) noexcept;
cudaError_t launch_int8_half(const StreamArguments& s, int config, cudaStream_t stream) noexcept;
cudaError_t launch_int8_bfloat16(const StreamArguments& s, int config, cudaStream_t stream) noexcept;
cudaError_t launch_int4_half(const StreamArguments& s, int config, cudaStream_t stream) noexcept;
cudaError_t launch_int4_bfloat16(const StreamArguments& s, int config, cudaStream_t stream) noexcept;

// Launches a configuration of kWarpgroupConfigs by its index there.
cudaError_t launch_warpgroups(const LinearArguments& a, Scalar scalar, int config,
                              cudaStream_t stream) noexcept;
// Returns false if this library was built without them, as they need code for sm_90a.
bool has_warpgroup_kernels() noexcept;

// Launch the kernels before and after a dense product.  Return cudaErrorInvalidConfiguration as above.
cudaError_t launch_unpack(const UnpackArguments& a, cudaStream_t stream) noexcept;
cudaError_t launch_activate(const ActivateArguments& a, Scalar scalar, cudaStream_t stream) noexcept;

}  // namespace patch
