// Copies of the tile of X beside a slab, those of one thread.
#pragma once
#include <type_traits>

#include "kernels/arguments.h"
#include "kernels/place.cuh"

namespace patch {

// Of 16-bit X.  In a slot, 16-byte chunk q of row r lies at q ^ (r & 7), so ldmatrix has no bank conflicts.
template <class G>
class SixteenBitInputs {
 public:
  PATCH_DEVICE SixteenBitInputs(const LinearArguments& a, int thread) : a_(a), thread_(thread) {}
  PATCH_DEVICE static int place(int thread) {
    const int row = thread / kChunks, chunk = thread % kChunks;
    return row * 128 + ((chunk ^ (row & 7)) << 4);
  }

  PATCH_DEVICE void begin_tile(int first_token) {
    const int row = first_token + thread_ / kChunks;
    tokens_left_ = a_.tokens - row;
    x_tile_ = a_.x + static_cast<int64_t>(row) * a_.in_features;
  }
  PATCH_DEVICE void aim(int column, bool exists) {
    const int k = column * kSlabColumns + thread_ % kChunks * 8, columns = a_.in_features;
    x_ = x_tile_ + k;
    low_left_ = exists && k < columns ? tokens_left_ : 0;
    high_left_ = exists && k < columns && columns - k > 4 ? tokens_left_ : 0;
  }

 private:
  static constexpr int kChunks = kSlabColumns / 8;     // of 16 bytes, per row of X
  static constexpr int kRows = G::kThreads / kChunks;  // rows of X that the block copies at a time
  static_assert(kRows % 8 == 0, "a thread stays in one column of the swizzle");

 public:
  static constexpr int kCopies = G::kTokens / kRows;
  // Fills rows beyond `tokens` and columns beyond `in_features` with zeros, without reading them.  The memory
  // there may hold a NaN or belong to another tensor, and a NaN times a zero weight is a NaN.
  template <int J>
  PATCH_DEVICE void copy(uint8_t* to) const {
    const uint16_t* from = x_ + static_cast<int64_t>(J * kRows) * a_.in_features;
    copy_tokens_async<G::kSlabBytes + J * kRows * 128>(to, from, low_left_ > J * kRows,
                                                       high_left_ > J * kRows, a_.x_vector);
  }

 private:
  const LinearArguments& a_;
  int thread_;
  int tokens_left_ = 0;               // rows of X from this thread's first one on
  int low_left_ = 0, high_left_ = 0;  // the same for the halves of a copy, 0 beyond the last column
  const uint16_t *x_tile_ = nullptr, *x_ = nullptr;
};

// Of X as integers, whose rows are whole slabs, row by row.  Rows beyond `tokens` are left as they are in the
// slot: an integer there changes no other token.
template <class G>
class RoundedInputs {
 public:
  PATCH_DEVICE RoundedInputs(const LinearArguments& a, int thread) : a_(a), thread_(thread) {}
  PATCH_DEVICE static int place(int thread) { return thread * 16; }

  PATCH_DEVICE void begin_tile(int first_token) {
    const int row = first_token + thread_ / kChunks;
    const bool copies = kRows <= G::kTokens || thread_ / kChunks < G::kTokens;
    tokens_left_ = copies ? a_.tokens - row : 0;
    tile_ = a_.rounded + row * padded_columns(a_.in_features) + thread_ % kChunks * 16;
  }
  PATCH_DEVICE void aim(int column, bool exists) {
    from_ = tile_ + static_cast<int64_t>(column) * kSlabColumns;
    left_ = exists ? tokens_left_ : 0;
  }

 private:
  static constexpr int kChunks = kSlabColumns / 16;
  static constexpr int kRows = G::kThreads / kChunks;

 public:
  static constexpr int kCopies = kRows < G::kTokens ? G::kTokens / kRows : 1;
  static_assert(kCopies == 1 || kCopies * kRows == G::kTokens);
  template <int J>
  PATCH_DEVICE void copy(uint8_t* to) const {
    const int8_t* from = from_ + J * kRows * padded_columns(a_.in_features);
    copy_inputs_async<G::kSlabBytes + J * kRows * kSlabColumns>(to, from, left_ > J * kRows);
  }

 private:
  const LinearArguments& a_;
  int thread_;
  int tokens_left_ = 0, left_ = 0;
  const int8_t *tile_ = nullptr, *from_ = nullptr;
};

template <class G>
using Inputs = std::conditional_t<G::kWeights == Weights::kW8A8, RoundedInputs<G>, SixteenBitInputs<G>>;

}  // namespace patch
