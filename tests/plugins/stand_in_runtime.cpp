// A CUDA runtime for kernels/launch.cpp that launches nothing: it says how a kernel would be launched.
#include <cstdint>

#include "kernels/launch.h"

namespace {

int driver, code, allowed;  // versions of the driver and of a kernel's code; shared memory that it may use
int64_t launched[4];        // of the last launch: blocks, threads, shared memory, 1 if it may begin early

}  // namespace

extern "C" {

cudaError_t cudaDriverGetVersion(int* version) { return *version = driver, cudaSuccess; }
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  attributes->ptxVersion = code;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int value) {
  return allowed = value, cudaSuccess;
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void*, void**) {
  if (c->dynamicSmemBytes > 48 << 10 && allowed < static_cast<int>(c->dynamicSmemBytes))
    return cudaErrorInvalidValue;
  launched[0] = c->gridDim.x, launched[1] = c->blockDim.x, launched[2] = c->dynamicSmemBytes, launched[3] = 0;
  for (unsigned i = 0; i < c->numAttrs; ++i)
    if (c->attrs[i].id == cudaLaunchAttributeProgrammaticStreamSerialization)
      launched[3] = c->attrs[i].val.programmaticStreamSerializationAllowed;
  return cudaSuccess;
}
// Nothing here asks for a device.
cudaError_t cudaGetDevice(int*) { return cudaErrorNoDevice; }
cudaError_t cudaDeviceGetAttribute(int*, cudaDeviceAttr, int) { return cudaErrorNoDevice; }

int patch_start(int driver_version, int code_version, int64_t blocks, int shared_bytes, int64_t* out) {
  driver = driver_version, code = code_version, allowed = 0;
  const cudaError_t e = patch::start_kernel(&driver, nullptr, blocks, 128, shared_bytes, nullptr);
  for (int i = 0; i < 4; ++i) out[i] = launched[i];
  return e;
}

}  // extern "C"
