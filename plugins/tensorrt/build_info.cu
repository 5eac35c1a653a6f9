// A string that says what this library was built for.  Readers find it in the file without loading the
// library.  This file is compiled by nvcc because only nvcc defines the architectures.
#include "NvInferVersion.h"
#include "tensorrt/library.h"

#if defined(__x86_64__) || defined(_M_X64)
#define PATCH_MACHINE "x86_64"
#elif defined(__aarch64__)
#define PATCH_MACHINE "aarch64"
#else
#error "name this machine as `uname -m` does"
#endif

// The kernels that this library is linked with, as patch_compile/plugin/kernels.py names them.
#ifndef PATCH_KERNELS
#define PATCH_KERNELS all
#endif

// The architectures with machine code. nvcc's own list has the architectures that are compiled to PTX,
// and one PTX may become the machine code of several.
#ifndef PATCH_ARCHS
#define PATCH_ARCHS __CUDA_ARCH_LIST__
#endif

// clang-format off
extern "C" PATCH_EXPORT extern const char patch_linear_build_info[] =
    "patch-linear-plugin version=3"
    " backend=" PATCH_STRING(PATCH_BACKEND)
    " cuda=" PATCH_STRING(__CUDACC_VER_MAJOR__) "." PATCH_STRING(__CUDACC_VER_MINOR__)
    " archs=" PATCH_STRING(PATCH_ARCHS)
    " headers=" PATCH_STRING(NV_TENSORRT_MAJOR) "." PATCH_STRING(NV_TENSORRT_MINOR)
    " machine=" PATCH_MACHINE
    " kernels=" PATCH_STRING(PATCH_KERNELS);
// clang-format on
