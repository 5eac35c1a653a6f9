// The way of many tokens on a GPU whose tensor cores reach their rate by instructions that the kernels here
// don't issue (wgmma of Hopper): W is unpacked into the workspace, piece by piece, and multiplied by
// cuBLASLt.
//
//   plain:                 unpack -> product with bias and residual -> Y                     rounded once
//   gate or activation:    unpack -> product -> 16 bits -> bias, activation, gate, residual -> Y
//
// The second rounds the products to 16 bits between, as a dense model that is not fused does.
#pragma once
#include <string>

#include "dense_path/dense_product.h"
#include "dense_path/pieces.h"

namespace patch {

// Of pieces and cuBLASLt, for any number of tokens up to p.tokens.
size_t dense_path_workspace(const Problem& p, const Epilogue& e);

class DensePath {
 public:
  // Everything that takes time or memory; of no tokens there is nothing, and `run` then does nothing.  Empty
  // when `run` can be called, else what is wrong.
  std::string prepare(const Problem& p, const Epilogue& e, Scalar scalar);

  // Whether these pointers are aligned as the products were promised.
  static bool takes(const LinearArguments& a);
  // Of the problem that was prepared.  Safe inside a CUDA graph capture.  `workspace` is aligned to 256
  // bytes.
  std::string run(const LinearArguments& a, void* workspace, cudaStream_t stream) const;

 private:
  std::string run_piece(const LinearArguments& a, int32_t first_panel, uint8_t* workspace,
                        cudaStream_t stream) const;
  // Rows of W that a piece of so many panels multiplies.
  int32_t features(int32_t first_panel, int32_t panels) const;

  Problem problem_{};
  Epilogue epilogue_{};
  Scalar scalar_{};
  Pieces pieces_{};
  DenseProduct whole_, last_;  // of whole pieces, and of the last one
};

}  // namespace patch
