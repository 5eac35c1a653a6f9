// Computes D = X W^T of row-major matrices with cuBLASLt, with fp32 sums, rounded once, or of int8 with int32
// sums.
#pragma once
#include <memory>
#include <string>

#include "dense_path/cublaslt_library.h"
#include "kernels/arguments.h"

namespace patch {

// The size that cuBLAS recommends on Hopper (documentation of cublasSetWorkspace).
inline constexpr size_t kProductWorkspace = size_t{32} << 20;
inline constexpr uint32_t kProductAlignment = 16;  // bytes, of X, the residual and D; W is aligned to 256

struct ProductShape {
  int64_t tokens;                        // rows of X and D
  int64_t features;                      // rows of W, columns of D
  int64_t columns;                       // columns of X and W
  int64_t weight_stride, output_stride;  // values per row of W, and per row of D and of the residual
  bool bias, residual;
  bool integers;  // X and W are int8, and D int32, without bias and residual
  Scalar scalar;  // type of the others
};

struct ProductPointers {
  const void* x;
  const void* weight;
  const uint16_t* bias;      // [features], if the shape has one
  const uint16_t* residual;  // [tokens, features], if the shape has one
  void* d;
  void* workspace;  // kProductWorkspace bytes, aligned to 256
};

class DenseProduct {
 public:
  // Does everything that takes time or memory.  Returns an error, or "" if `run` can be called.
  std::string prepare(const ProductShape& shape);
  // Returns an error, or "".  Safe inside a CUDA graph capture.
  std::string run(const ProductPointers& p, cudaStream_t stream) const;

 private:
  template <class T>
  using Owned = std::unique_ptr<T, cublaslt::Status (*)(T*)>;

  const cublaslt::Functions* f_ = nullptr;
  cublaslt::Handle handle_ = nullptr;
  ProductShape shape_{};
  Owned<cublaslt::OperationOpaque> operation_{nullptr, nullptr};
  Owned<cublaslt::LayoutOpaque> w_{nullptr, nullptr}, x_{nullptr, nullptr}, d_{nullptr, nullptr};
  cublaslt::Algorithm algorithm_{};
};

}  // namespace patch
