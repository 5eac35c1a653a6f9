// Declares the functions and constants of cuBLASLt that the plugin uses, so that it builds without cuBLASLt's
// header.  The library is opened at run time (cublaslt_library.h).  Constants and structs are those of
// cublasLt.h and library_types.h of CUDA 12 and 13; a test compares them with the header if it is installed.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace patch::cublaslt {

using Status = int32_t;  // cublasStatus_t
inline constexpr Status kSuccess = 0;

// Opaque handles; distinct types, so that the compiler tells them apart.
using Handle = struct HandleOpaque*;
using Operation = struct OperationOpaque*;    // cublasLtMatmulDesc_t
using Layout = struct LayoutOpaque*;          // cublasLtMatrixLayout_t
using Preference = struct PreferenceOpaque*;  // cublasLtMatmulPreference_t

inline constexpr int32_t kReal32 = 0, kReal16 = 2, kInt8 = 3, kInt32 = 10, kBFloat16 = 14;  // cudaDataType_t
inline constexpr int32_t kCompute32 = 68, kComputeInt32 = 72;  // CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32I
inline constexpr int32_t kTranspose = 1;                       // CUBLAS_OP_T

// cublasLtMatmulDescAttributes_t
inline constexpr int32_t kTransposeA = 3, kEpilogue = 7, kBiasPointer = 8;
inline constexpr int32_t kEpilogueBias = 4;  // CUBLASLT_EPILOGUE_BIAS: added to every column of D

// cublasLtMatmulPreferenceAttributes_t
inline constexpr int32_t kMaxWorkspace = 1, kReductionSchemes = 3;
inline constexpr int32_t kAlignmentA = 5, kAlignmentB = 6, kAlignmentC = 7, kAlignmentD = 8;
// A product that is split along K adds its partial sums through the workspace, in a fixed order.
// CUBLASLT_REDUCTION_SCHEME_INPLACE, which is not allowed here, adds them in the order of arrival.
inline constexpr uint32_t kReductionInOrder = 2;  // CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE

struct Algorithm {  // cublasLtMatmulAlgo_t
  uint64_t data[8];
};
struct Heuristic {  // cublasLtMatmulHeuristicResult_t
  Algorithm algorithm;
  size_t workspace;
  Status status;
  float waves;
  int32_t reserved[4];
};

struct Functions {
  size_t (*version)();  // major * 10000 + minor * 100 + patch
  Status (*create)(Handle*);
  Status (*operation_create)(Operation*, int32_t compute, int32_t scale);
  Status (*operation_destroy)(Operation);
  Status (*operation_set)(Operation, int32_t attribute, const void* value, size_t bytes);
  Status (*layout_create)(Layout*, int32_t type, uint64_t rows, uint64_t columns, int64_t leading);
  Status (*layout_destroy)(Layout);
  Status (*preference_create)(Preference*);
  Status (*preference_destroy)(Preference);
  Status (*preference_set)(Preference, int32_t attribute, const void* value, size_t bytes);
  Status (*heuristic)(Handle, Operation, Layout a, Layout b, Layout c, Layout d, Preference, int wanted,
                      Heuristic* found, int* count);
  Status (*matmul)(Handle, Operation, const void* alpha, const void* a, Layout, const void* b, Layout,
                   const void* beta, const void* c, Layout, void* d, Layout, const Algorithm*,
                   void* workspace, size_t workspace_bytes, cudaStream_t);
};

}  // namespace patch::cublaslt
