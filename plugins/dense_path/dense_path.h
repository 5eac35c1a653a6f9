// The dense path unpacks W into the workspace, piece by piece, and multiplies it with cuBLASLt.  It is for
// many tokens: on GPUs whose tensor cores reach their peak rate only with instructions that the kernels of
// this plugin don't use (wgmma on Hopper), and everywhere for slabs of n:16 and of integers, which save no
// products.
//
//   plain:                 unpack -> product with bias and residual -> Y                     rounded once
//   gate or activation:    unpack -> product -> 16 bits -> bias, activation, gate, residual -> Y
//   w8a8:                  X to int8, unpack -> product -> int32 -> scales, and the same    -> Y
//
// The second form also rounds the products to 16 bits, as a dense model without fusion does.  The third has
// the results of the kernels: its sums are exact.
#pragma once
#include <string>

#include "dense_path/dense_product.h"
#include "dense_path/pieces.h"

namespace patch {

// Bytes of workspace for the pieces and cuBLASLt, enough for any number of tokens up to p.tokens.
size_t dense_path_workspace(const Problem& p, const Epilogue& e);

class DensePath {
 public:
  // Does everything that takes time or memory.  With 0 tokens it does nothing, and neither does `run`.
  // Returns an error, or "" if `run` can be called.
  std::string prepare(const Problem& p, const Epilogue& e, Scalar scalar);

  // Returns true if the pointers have the alignment that the products were prepared for.
  static bool takes(const LinearArguments& a);
  // Runs the prepared problem.  Safe inside a CUDA graph capture.  `workspace` is aligned to 256 bytes; of
  // w8a8 the rounded X of `a` may lie at its begin.
  std::string run(const LinearArguments& a, void* workspace, cudaStream_t stream) const;

 private:
  std::string run_piece(const LinearArguments& a, int32_t first_panel, uint8_t* workspace,
                        cudaStream_t stream) const;
  // Returns the number of rows of W in the product of `panels` panels.
  int32_t features(int32_t first_panel, int32_t panels) const;

  Problem problem_{};
  Epilogue epilogue_{};
  Scalar scalar_{};
  Pieces pieces_{};
  DenseProduct whole_, last_;  // for a whole piece, and for the last piece
};

}  // namespace patch
