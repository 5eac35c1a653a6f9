// A CUDA runtime for kernels/launch.cpp that launches nothing: it says how a kernel would be launched, and
// counts what it was asked.
#include <atomic>
#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/launch.h"

namespace {

struct Launch {
  int32_t driver, code,
      device;  // versions of the driver and of the kernel's code; number of the current device
  int32_t shared_bytes;
  int64_t blocks, kernel;  // kernel: an address
};

// clock, memory_clock: kHz; bus: bits.
struct Card {
  int32_t sms, shared_bytes, l2_bytes, clock, memory_clock, bus, major, minor;
  char name[64];
};

thread_local Launch asked;
Card card;
thread_local int allowed;          // shared memory that the kernel may use
thread_local int64_t launched[4];  // blocks, threads, shared memory, 1 if it may begin early
std::atomic<int> drivers_asked, codes_asked;

}  // namespace

extern "C" {

cudaError_t cudaDriverGetVersion(int* version) {
  return ++drivers_asked, *version = asked.driver, cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  ++codes_asked;
  if (!asked.code) return cudaErrorNoKernelImageForDevice;
  return attributes->ptxVersion = asked.code, cudaSuccess;
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
cudaError_t cudaGetDevice(int* number) { return *number = asked.device, cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  for (const auto& [known, own] : {std::pair{cudaDevAttrMultiProcessorCount, &card.sms},
                                   {cudaDevAttrMaxSharedMemoryPerBlockOptin, &card.shared_bytes},
                                   {cudaDevAttrL2CacheSize, &card.l2_bytes},
                                   {cudaDevAttrClockRate, &card.clock},
                                   {cudaDevAttrMemoryClockRate, &card.memory_clock},
                                   {cudaDevAttrGlobalMemoryBusWidth, &card.bus},
                                   {cudaDevAttrComputeCapabilityMajor, &card.major},
                                   {cudaDevAttrComputeCapabilityMinor, &card.minor}})
    if (known == attribute) return *value = *own, cudaSuccess;
  return cudaErrorInvalidValue;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  return std::strncpy(properties->name, card.name, sizeof(properties->name) - 1), cudaSuccess;
}

// What the library finds of a card, as device `number`, which must be new to it.
int patch_device(const Card* given, int number, patch::Device* found) {
  card = *given, asked.device = number;
  return patch::current_device(found);
}

int patch_start(const Launch* launch, int64_t* out) {
  asked = *launch, allowed = 0;
  // The address is only compared.  NOLINTNEXTLINE(performance-no-int-to-ptr)
  const auto* kernel = reinterpret_cast<const void*>(launch->kernel);
  const cudaError_t e =
      patch::start_kernel(kernel, nullptr, launch->blocks, 128, launch->shared_bytes, nullptr);
  for (int i = 0; i < 4; ++i) out[i] = launched[i];
  return e;
}
void patch_asked(int* counts) { counts[0] = drivers_asked, counts[1] = codes_asked; }

}  // extern "C"
