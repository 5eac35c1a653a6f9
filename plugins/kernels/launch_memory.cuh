// Lets kernels use more shared memory than the 48 KiB that every kernel may.
#pragma once
#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>

namespace patch {

// Allows a kernel to use `bytes`, once per device.  Doing it twice is harmless, so there is no lock.
template <auto kKernel>
cudaError_t allow_shared_memory(int bytes) {
  static std::atomic<uint64_t> done{0};
  int device = 0;
  if (const cudaError_t e = cudaGetDevice(&device); e != cudaSuccess) return e;
  const uint64_t bit = uint64_t{1} << (device & 63);
  if (device < 64 && (done.load(std::memory_order_acquire) & bit)) return cudaSuccess;
  const cudaError_t e = cudaFuncSetAttribute(reinterpret_cast<const void*>(kKernel),
                                             cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (e == cudaSuccess && device < 64) done.fetch_or(bit, std::memory_order_release);
  return e;
}

}  // namespace patch
