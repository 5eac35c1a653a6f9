// Lets kernels use more shared memory than the 48 KiB that every kernel may.
#pragma once
#include <cuda_runtime_api.h>

namespace patch {

// Allows a kernel to use `bytes`.  A context forgets it when it ends, and nothing tells us, so it is said
// anew before each launch; that takes well under a microsecond of the host.
template <auto kKernel>
cudaError_t allow_shared_memory(int bytes) {
  if (bytes <= 48 * 1024) return cudaSuccess;
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kKernel),
                              cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

}  // namespace patch
