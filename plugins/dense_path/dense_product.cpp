#include "dense_path/dense_product.h"

namespace patch {
namespace {

using namespace cublaslt;

// Makes calls until one fails, and keeps the error of that one.
class Calls {
 public:
  template <class Call>
  Calls& then(const char* name, const Call& call) {
    if (!why_.empty()) return *this;
    if (const Status s = call(); s != kSuccess)
      why_ = std::string(name) + " failed with status " + std::to_string(s);
    return *this;
  }
  const std::string& why() const { return why_; }

 private:
  std::string why_;
};

template <class T>
auto setter(Status (*set)(T, int32_t, const void*, size_t), T object) {
  return [set, object](int32_t attribute, const auto& value) {
    return [=] { return set(object, attribute, static_cast<const void*>(&value), sizeof(value)); };
  };
}

}  // namespace

// cuBLASLt's matrices are column-major, so our row-major matrices are their transposes:
//   D^T [features, tokens] = W X^T = (W^T)^T X^T
//   A = W^T [columns, features], transposed        B = X^T [columns, tokens]
std::string DenseProduct::prepare(const ProductShape& shape) {
  std::string why;
  f_ = functions(&why);
  if (!f_) return why;
  if (why = handle_here(&handle_); !why.empty()) return why;
  shape_ = shape;
  const int32_t scalar = shape.scalar == Scalar::kHalf ? kReal16 : kBFloat16;
  const int32_t in = shape.integers ? kInt8 : scalar, out = shape.integers ? kInt32 : scalar;
  const auto layout = [f = f_](Owned<LayoutOpaque>* to, int32_t type, int64_t rows, int64_t columns,
                               int64_t leading) {
    return [=] {
      Layout made = nullptr;
      const Status s = f->layout_create(&made, type, rows, columns, leading);
      *to = Owned<LayoutOpaque>(made, f->layout_destroy);
      return s;
    };
  };
  Calls calls;
  calls.then("cublasLtMatmulDescCreate", [&] {
    Operation made = nullptr;
    const Status s = shape.integers ? f_->operation_create(&made, kComputeInt32, kInt32)
                                    : f_->operation_create(&made, kCompute32, kReal32);
    operation_ = {made, f_->operation_destroy};
    return s;
  });
  calls.then("cublasLtMatrixLayoutCreate",
             layout(&w_, in, shape.columns, shape.features, shape.weight_stride));
  calls.then("cublasLtMatrixLayoutCreate", layout(&x_, in, shape.columns, shape.tokens, shape.columns));
  calls.then("cublasLtMatrixLayoutCreate",
             layout(&d_, out, shape.features, shape.tokens, shape.output_stride));
  Preference made = nullptr;
  calls.then("cublasLtMatmulPreferenceCreate", [&] { return f_->preference_create(&made); });
  const Owned<PreferenceOpaque> preference(made, f_->preference_destroy);

  const char* name = "cublasLtMatmulDescSetAttribute";
  const auto set = setter(f_->operation_set, operation_.get());
  calls.then(name, set(kTransposeA, kTranspose));
  // The address of the bias is known in `run` only.  The heuristic needs one of the same alignment.
  if (shape.bias)
    calls.then(name, set(kEpilogue, kEpilogueBias))
        .then(name, set(kBiasPointer, uintptr_t{kProductAlignment}));

  name = "cublasLtMatmulPreferenceSetAttribute";
  const auto prefer = setter(f_->preference_set, preference.get());
  calls.then(name, prefer(kMaxWorkspace, uint64_t{kProductWorkspace}));
  calls.then(name, prefer(kReductionSchemes, kReductionInOrder));
  for (const int32_t alignment : {kAlignmentB, kAlignmentC, kAlignmentD})
    calls.then(name, prefer(alignment, kProductAlignment));

  Heuristic found{};
  int count = 0;
  calls.then("cublasLtMatmulAlgoGetHeuristic", [&] {
    return f_->heuristic(handle_, operation_.get(), w_.get(), x_.get(), d_.get(), d_.get(), preference.get(),
                         1, &found, &count);
  });
  if (!calls.why().empty()) return calls.why();
  if (count < 1 || found.status != kSuccess) return "cuBLASLt has no algorithm for this product";
  algorithm_ = found.algorithm;
  return {};
}

std::string DenseProduct::run(const ProductPointers& p, cudaStream_t stream) const {
  const float one = 1, beta = shape_.residual ? 1 : 0;
  const int32_t whole = 1, none = 0;
  const void* alpha = shape_.integers ? static_cast<const void*>(&whole) : &one;
  const void* scaled = shape_.integers ? static_cast<const void*>(&none) : &beta;
  const void* c = shape_.residual ? p.residual : p.d;
  Calls calls;
  if (shape_.bias)
    calls.then("cublasLtMatmulDescSetAttribute",
               setter(f_->operation_set, operation_.get())(kBiasPointer, p.bias));
  calls.then("cublasLtMatmul", [&] {
    return f_->matmul(handle_, operation_.get(), alpha, p.weight, w_.get(), p.x, x_.get(), scaled, c,
                      d_.get(), p.d, d_.get(), &algorithm_, p.workspace, kProductWorkspace, stream);
  });
  return calls.why();
}

}  // namespace patch
