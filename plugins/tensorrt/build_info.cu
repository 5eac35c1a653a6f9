// What this library was built for, as a string that is read from the file without loading it.  Compiled by
// nvcc, which alone knows the architectures.
#include "NvInferVersion.h"
#include "tensorrt/library.h"

// clang-format off
extern "C" __attribute__((visibility("default"), used)) extern const char patch_linear_build_info[] =
    "patch-linear-plugin version=1"
    " backend=" PATCH_STRING(PATCH_BACKEND)
    " cuda=" PATCH_STRING(__CUDACC_VER_MAJOR__) "." PATCH_STRING(__CUDACC_VER_MINOR__)
    " archs=" PATCH_STRING(__CUDA_ARCH_LIST__)
    " headers=" PATCH_STRING(NV_TENSORRT_MAJOR) "." PATCH_STRING(NV_TENSORRT_MINOR);
// clang-format on
