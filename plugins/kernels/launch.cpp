#include "kernels/launch.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <map>
#include <mutex>
#include <utility>

#include "kernels/early_launches.h"

namespace patch {

namespace {

bool is_set(const char* variable, const char* value) {
  const char* said = std::getenv(variable);
  return said && std::strcmp(said, value) == 0;
}

// Returns false if the user or the driver has no early launches: captures take them since CUDA 12.3.
bool early_launches() {
  static const bool wanted = [] {
    int driver = 0;
    return !is_set("PATCH_PDL", "0") && cudaDriverGetVersion(&driver) == cudaSuccess && driver >= 12030;
  }();
  return wanted;
}
// Finds out if a launch of the kernel may begin early on the current device.  Code of older architectures,
// which the driver may have compiled for a newer device, does not wait.
cudaError_t may_begin_early(const void* kernel, bool* may) {
  static std::mutex lock;
  static std::map<std::pair<int, const void*>, bool> known;
  *may = early_launches();
  if (!*may) return cudaSuccess;
  int number = 0;
  if (const cudaError_t e = cudaGetDevice(&number); e != cudaSuccess) return e;
  try {
    const std::lock_guard<std::mutex> held(lock);
    const auto [found, first] = known.try_emplace({number, kernel});
    if (first) {
      cudaFuncAttributes code{};
      if (const cudaError_t e = cudaFuncGetAttributes(&code, kernel); e != cudaSuccess)
        return known.erase(found), e;
      found->second = code.ptxVersion >= kFirstThatWaits;
    }
    *may = found->second;
    return cudaSuccess;
  } catch (const std::exception&) {
    return cudaErrorMemoryAllocation;
  }
}

cudaError_t ask(int number, Device* device) {
  int32_t l2 = 0, clock = 0, memory_clock = 0, bus = 0, major = 0, minor = 0;
  for (const auto& [attribute, value] : std::initializer_list<std::pair<cudaDeviceAttr, int32_t*>>{
           {cudaDevAttrMultiProcessorCount, &device->sms},
           {cudaDevAttrMaxSharedMemoryPerBlockOptin, &device->shared_bytes},
           {cudaDevAttrL2CacheSize, &l2},
           {cudaDevAttrClockRate, &clock},
           {cudaDevAttrMemoryClockRate, &memory_clock},
           {cudaDevAttrGlobalMemoryBusWidth, &bus},
           {cudaDevAttrComputeCapabilityMajor, &major},
           {cudaDevAttrComputeCapabilityMinor, &minor}})
    if (const cudaError_t e = cudaDeviceGetAttribute(value, attribute, number); e != cudaSuccess) return e;
  cudaDeviceProp properties{};
  if (const cudaError_t e = cudaGetDeviceProperties(&properties, number); e != cudaSuccess) return e;
  // memory_clock is in kHz, bus in bits; DRAM makes two transfers per clock.
  const double bandwidth = 2e3 * memory_clock * bus / 8;
  device->l2_bytes = l2;
  device->dram =
      bandwidth > 0 && clock > 0 ? dram_bytes(bandwidth, device->sms, 1e3 * clock) : kUsualDramBytes;
  device->sm = 10 * major + minor;
  // No attribute tells that the tensor cores of GeForce cards sum in fp32 at half the rate.
  device->geforce = std::strstr(properties.name, "GeForce") != nullptr;
  device->dense_fma = turns_of(*device).dense_fma;
  return cudaSuccess;
}

// Null where this library lacks the group.  There before any file adds its own.
Launcher& launcher_of(Scalar scalar, Group group) {
  static std::array<std::array<Launcher, kGroupCount>, 2> known{};
  return known[static_cast<int>(scalar)][static_cast<int>(group)];
}

}  // namespace

bool add_launcher(Scalar scalar, Group group, Launcher launcher) noexcept {
  launcher_of(scalar, group) = launcher;
  return true;
}

bool has_kernels(Scalar scalar, Group group) noexcept { return launcher_of(scalar, group) != nullptr; }

cudaError_t current_device(Device* device) noexcept {
  static std::mutex lock;
  static std::map<int, Device> known;
  int number = 0;
  if (const cudaError_t e = cudaGetDevice(&number); e != cudaSuccess) return e;
  try {
    const std::lock_guard<std::mutex> held(lock);
    const auto [found, first] = known.try_emplace(number);
    if (first)
      if (const cudaError_t e = ask(number, &found->second); e != cudaSuccess) return known.erase(found), e;
    *device = found->second;
    return cudaSuccess;
  } catch (const std::exception&) {
    return cudaErrorMemoryAllocation;
  }
}

cudaError_t start_kernel(const void* kernel, void* arguments, int64_t blocks, int threads, int shared_bytes,
                         cudaStream_t stream) noexcept {
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  // A context forgets what a kernel is allowed when it ends, and nothing tells us, so it is said anew before
  // each launch; that takes well under a microsecond of the host.
  constexpr int kEveryKernelMay = 48 * 1024;
  if (shared_bytes > kEveryKernelMay)
    if (const cudaError_t e =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
        e != cudaSuccess)
      return e;
  bool may = false;
  if (const cudaError_t e = may_begin_early(kernel, &may); e != cudaSuccess) return e;
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks)), config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes, config.stream = stream;
  config.attrs = &early, config.numAttrs = may ? 1 : 0;
  // Unlike <<<>>> with cudaGetLastError(), this leaves an earlier error to the application that caused it.
  void* parameters[] = {arguments};
  return cudaLaunchKernelExC(&config, kernel, parameters);
}

cudaError_t launch(LinearArguments a, const PartTable& table, Scalar scalar, const Schedule& schedule,
                   cudaStream_t stream) noexcept {
  if (a.tokens == 0 || a.out_features == 0) return cudaSuccess;
  a.parts = schedule.parts, a.scalar = scalar;
  if (!choose_vectors(&a)) return cudaErrorMisalignedAddress;
  const StreamArguments s{a, table};
  const Config& c = kConfigs[schedule.config];
  const Launcher launcher = launcher_of(scalar, group_of(c.weights, c.kinds));
  if (!launcher) return cudaErrorInvalidDeviceFunction;
  return launcher(s, schedule.config, stream);
}

cudaError_t launch_rounding(LinearArguments a, Scalar scalar, cudaStream_t stream) noexcept {
  a.scalar = scalar;
  if (!choose_vectors(&a)) return cudaErrorMisalignedAddress;
  const Launcher launcher = launcher_of(scalar, Group::kW8A8);
  return launcher ? launcher({a, {}}, kOnlyRounds, stream) : cudaErrorInvalidDeviceFunction;
}

}  // namespace patch
