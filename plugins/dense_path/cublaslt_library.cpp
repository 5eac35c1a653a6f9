#include "dense_path/cublaslt_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <mutex>

namespace patch::cublaslt {
namespace {

constexpr const char* kVariable = "PATCH_CUBLASLT";
constexpr const char* kDriver = "libcuda.so.1";
constexpr const char* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12",
                                  "/usr/local/cuda/lib64/libcublasLt.so.13",
                                  "/usr/local/cuda/lib64/libcublasLt.so.12"};
constexpr size_t kOldest = 12, kNewest = 13;  // major versions that the constants of cublaslt_api.h are from

struct Library {
  Functions functions{};
  std::string why;
};

template <class Function>
bool find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

// Fills in the functions.  Returns an error, or "" if the library can be used.
std::string read(void* library, Functions* f) {
  if (!find(library, "cublasLtGetVersion", &f->version)) return "it is not cuBLASLt";
  const size_t version = f->version(), major = version / 10000;
  if (major < kOldest || major > kNewest)
    return "it is version " + std::to_string(version) + ", and only CUDA 12's and 13's are known";
  const bool whole = find(library, "cublasLtCreate", &f->create) &&
                     find(library, "cublasLtMatmulDescCreate", &f->operation_create) &&
                     find(library, "cublasLtMatmulDescDestroy", &f->operation_destroy) &&
                     find(library, "cublasLtMatmulDescSetAttribute", &f->operation_set) &&
                     find(library, "cublasLtMatrixLayoutCreate", &f->layout_create) &&
                     find(library, "cublasLtMatrixLayoutDestroy", &f->layout_destroy) &&
                     find(library, "cublasLtMatmulPreferenceCreate", &f->preference_create) &&
                     find(library, "cublasLtMatmulPreferenceDestroy", &f->preference_destroy) &&
                     find(library, "cublasLtMatmulPreferenceSetAttribute", &f->preference_set) &&
                     find(library, "cublasLtMatmulAlgoGetHeuristic", &f->heuristic) &&
                     find(library, "cublasLtMatmul", &f->matmul);
  return whole ? "" : "a function is missing from it";
}

// Returns true if `name` could be opened.  `library->why` is then an error, or empty if the library can be
// used.
bool open(const char* name, Library* library) {
  // The user may name a library in the environment.  NOLINTNEXTLINE(clang-analyzer-optin.taint.GenericTaint)
  void* opened = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (!opened) return false;
  library->why = read(opened, &library->functions);
  if (library->why.empty()) return true;
  library->why = std::string(name) + " can't be used: " + library->why;
  dlclose(opened);
  return true;
}

Library open_first() {
  Library library;
  // The user's choice: no other library is tried.
  if (const char* named = std::getenv(kVariable); named && *named) {
    if (!open(named, &library))
      library.why = std::string(kVariable) + " is " + named + ", which can't be opened: " + dlerror();
    return library;
  }
  std::string refused;
  for (const char* name : kNames) {
    if (!open(name, &library)) continue;
    if (library.why.empty()) return library;
    refused += library.why + "; ";
  }
  library.why =
      refused +
      "no libcublasLt.so.13 or .12 is on the library path: install a CUDA toolkit or the nvidia-cublas "
      "wheel and put its folder on LD_LIBRARY_PATH, or name the file in " +
      kVariable;
  return library;
}

template <class Function>
Function driver_function(const char* name) {
  // The runtime has loaded the driver.  A process without one has no contexts.
  void* driver = dlopen(kDriver, RTLD_LAZY | RTLD_NOLOAD);
  if (!driver) return nullptr;
  void* found = dlsym(driver, name);
  dlclose(driver);
  return reinterpret_cast<Function>(found);
}

// Gets a number of the current context that no other context of the process ever has (cuCtxGetId, driver 12).
// Without such a driver it is the device's number, which is right while an application has one context a
// device.
cudaError_t context_here(unsigned long long* number) {
  static const auto current = driver_function<int (*)(void**)>("cuCtxGetCurrent");
  static const auto id = driver_function<int (*)(void*, unsigned long long*)>("cuCtxGetId");
  int device = 0;
  if (const cudaError_t e = cudaGetDevice(&device); e != cudaSuccess) return e;
  *number = static_cast<unsigned long long>(device);
  void* context = nullptr;
  if (current && id && current(&context) == 0 && context) id(context, number);
  return cudaSuccess;
}

}  // namespace

const Functions* functions(std::string* why) {
  static const Library library = open_first();
  *why = library.why;
  return library.why.empty() ? &library.functions : nullptr;
}

std::string handle_here(Handle* handle) {
  static std::mutex lock;
  // Handles are never destroyed: at exit the CUDA runtime may be gone.
  static std::map<unsigned long long, Handle> known;
  std::string why;
  const Functions* f = functions(&why);
  if (!f) return why;
  unsigned long long context = 0;
  if (const cudaError_t e = context_here(&context); e != cudaSuccess) return cudaGetErrorString(e);
  const std::lock_guard<std::mutex> held(lock);
  if (const auto found = known.find(context); found != known.end()) return *handle = found->second, "";
  if (const Status s = f->create(handle); s != kSuccess)
    return "cublasLtCreate failed with status " + std::to_string(s);
  known.emplace(context, *handle);
  return {};
}

}  // namespace patch::cublaslt
