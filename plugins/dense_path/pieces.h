// How a linear that goes by the dense path is cut, so that what it needs of the workspace stays small: pieces
// of W's rows are unpacked and multiplied one after another.  Plain arithmetic, no CUDA.
//
//   workspace   | a piece of W, rows of whole slabs | its products, where an activation follows | cuBLASLt's
//   |
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/arguments.h"
#include "kernels/schedule.h"

namespace patch {

// What follows the product.
struct Epilogue {
  bool bias, residual;
  Activation activation;
};

// A piece of W and its products take at most so much, unless one panel takes more.  More pieces would be more
// kernels, each with an end at which SMs wait for the last.
#ifndef PATCH_PIECE_BYTES  // tests have small pieces
#define PATCH_PIECE_BYTES (int64_t{64} << 20)
#endif
inline constexpr int64_t kPieceBytes = PATCH_PIECE_BYTES;

// Eight values are what one load or store moves, and what rows must be aligned to for cuBLASLt's fast
// kernels.
inline bool suits_dense_path(const Problem& p) { return p.in_features % 8 == 0 && p.out_features % 8 == 0; }

// cuBLASLt adds bias and residual to a product itself; what more there is takes a second kernel.
inline bool is_plain(const Problem& p, const Epilogue& e) {
  return !p.gated && e.activation == Activation::kNone;
}

inline int32_t slab_columns(const Problem& p) {
  return static_cast<int32_t>(ceil_div(p.in_features, kSlabColumns));
}

struct Pieces {
  int32_t panels;  // of Y, in each piece; the last may have fewer
  int32_t count;
};

// Bytes of a piece of so many panels of Y.
inline int64_t piece_weight_bytes(const Problem& p, int64_t panels) {
  return 2 * panels * p.panel_rows * panels_per_tile(p.gated) * slab_columns(p) * kSlabColumns;
}
inline int64_t piece_product_bytes(const Problem& p, const Epilogue& e, int64_t panels) {
  if (is_plain(p, e)) return 0;
  const int64_t bytes = 2 * panels * p.panel_rows * panels_per_tile(p.gated) * p.tokens;
  return ceil_div(bytes, 256) * 256;
}
inline int64_t piece_bytes(const Problem& p, const Epilogue& e, int64_t panels) {
  return piece_weight_bytes(p, panels) + piece_product_bytes(p, e, panels);
}

// As few as go into kPieceBytes, and of about one size.
inline Pieces choose_pieces(const Problem& p, const Epilogue& e) {
  const int64_t panels = panel_count(p), most = std::max<int64_t>(1, kPieceBytes / piece_bytes(p, e, 1));
  const int64_t each = ceil_div(panels, ceil_div(panels, std::min(panels, most)));
  return {static_cast<int32_t>(each), static_cast<int32_t>(ceil_div(panels, each))};
}

// At least what the pieces take for any number of tokens up to p.tokens.
inline size_t pieces_bound(const Problem& p, const Epilogue& e) {
  const int64_t whole = piece_bytes(p, e, panel_count(p)), least = piece_bytes(p, e, 1);
  return static_cast<size_t>(std::min(whole, std::max(kPieceBytes, least)));
}

}  // namespace patch
