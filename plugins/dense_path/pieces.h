// Cuts a linear on the dense path into pieces of W's rows, which are unpacked and multiplied one after
// another. This keeps the workspace small.  Plain arithmetic, no CUDA.
//
//   workspace   | rounded X of w8a8 | a piece of W, rows of whole slabs | its products, if a kernel follows |
//               | cuBLASLt |
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/arguments.h"
#include "kernels/schedule.h"

namespace patch {

// Operations that follow the product.
struct Epilogue {
  bool bias, residual;
  Activation activation;
};

// Most bytes of a piece of W and its products, unless a single panel takes more.  Smaller pieces would need
// more kernels, and at the end of each kernel SMs idle until the last one is done.
#ifndef PATCH_PIECE_BYTES  // tests have small pieces
#define PATCH_PIECE_BYTES (int64_t{64} << 20)
#endif
inline constexpr int64_t kPieceBytes = PATCH_PIECE_BYTES;

// A load or store moves eight values, and cuBLASLt's fast kernels need rows aligned to eight values.
inline bool suits_dense_path(const Problem& p) { return p.in_features % 8 == 0 && p.out_features % 8 == 0; }

// True if cuBLASLt does the whole epilogue: it can add bias and residual.  Any other epilogue takes a second
// kernel, and so do sums of integers.
inline bool is_plain(const Problem& p, const Epilogue& e) {
  return p.weights != Weights::kW8A8 && !p.gated && e.activation == Activation::kNone;
}
// Bytes of a product that a second kernel reads.
inline int64_t product_bytes(Weights weights) { return weights == Weights::kW8A8 ? 4 : 2; }

inline int32_t slab_columns(const Problem& p) {
  return static_cast<int32_t>(ceil_div(p.in_features, kSlabColumns));
}

struct Pieces {
  int32_t panels;  // of W in each piece; the last piece may have fewer
  int32_t count;
};

// Bytes of a piece of `panels` panels.
inline int64_t piece_weight_bytes(const Problem& p, int64_t panels) {
  return input_bytes(p.weights) * panels * p.panel_rows * slab_columns(p) * kSlabColumns;
}
inline int64_t piece_product_bytes(const Problem& p, const Epilogue& e, int64_t panels) {
  if (is_plain(p, e)) return 0;
  const int64_t bytes = product_bytes(p.weights) * panels * p.panel_rows * p.tokens;
  return ceil_div(bytes, 256) * 256;
}
inline int64_t piece_bytes(const Problem& p, const Epilogue& e, int64_t panels) {
  return piece_weight_bytes(p, panels) + piece_product_bytes(p, e, panels);
}

// Chooses as few pieces as kPieceBytes allows, of nearly equal size.
inline Pieces choose_pieces(const Problem& p, const Epilogue& e) {
  const int64_t panels = panel_count(p), most = std::max<int64_t>(1, kPieceBytes / piece_bytes(p, e, 1));
  const int64_t each = ceil_div(panels, ceil_div(panels, std::min(panels, most)));
  return {static_cast<int32_t>(each), static_cast<int32_t>(ceil_div(panels, each))};
}

// Upper bound of the bytes of a piece, for any number of tokens up to p.tokens.
inline size_t pieces_bound(const Problem& p, const Epilogue& e) {
  const int64_t whole = piece_bytes(p, e, panel_count(p)), least = piece_bytes(p, e, 1);
  return static_cast<size_t>(std::min(whole, std::max(kPieceBytes, least)));
}

}  // namespace patch
