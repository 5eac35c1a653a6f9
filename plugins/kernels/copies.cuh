// Copies of slabs, and of the tile of X beside them, into shared memory.  They have no branches, so that the
// compiler can put them between products: a copy that a kind of slab does not need is predicated off, and
// one of what is not there has size zero.
#pragma once
#include "kernels/slabs.cuh"
#include "kernels/streams.cuh"

namespace patch {

// The copies of one slab at a time, those of one thread.
template <class T, class G, class Hint>
class SlabCopies {
  using Dense = typename Streams<T, G>::Dense;
  using Sparse = typename Streams<T, G>::Sparse;

 public:
  PATCH_DEVICE SlabCopies(const LinearArguments& a, Hint policy, int thread)
      : a_(a), policy_(policy), thread_(thread) {}
  // Byte of a slot at which this thread's copies begin, as many bytes from the last as the block copies at a
  // time. In X, 16-byte chunk q of row r lies at q ^ (r & 7), so ldmatrix has no bank conflicts; any order
  // would do for W.
  PATCH_DEVICE static int place(int thread) {
    const int row = thread / kChunks, chunk = thread % kChunks;
    return row * 128 + ((chunk ^ (row & 7)) << 4);
  }

  // Rows first_token .. of X are copied from now on.
  PATCH_DEVICE void begin_tile(int first_token) {
    const int row = first_token + thread_ / kChunks;
    tokens_left_ = a_.tokens - row;
    x_tile_ = a_.x + static_cast<int64_t>(row) * a_.in_features;
  }
  // Slab i of a panel is copied next, with the 64 columns of X from 64 * `column`, if there is such a slab.
  PATCH_DEVICE void aim(const Panel<G>& p, int i, int column, bool exists) {
    const bool dense = i < p.dense;
    const int64_t row = p.row(i);
    values_ = (dense ? bytes(a_.dense) : bytes(a_.sparse)) +
              row * (dense ? Dense::kValueBytes : Sparse::kValueBytes) + place(thread_);
    extra_ = bytes(a_.meta) + row * Sparse::kExtraBytes + place(thread_) - Sparse::kValueBytes;
    dense_ = exists && dense, sparse_ = exists && !dense;
    const int k = column * kSlabColumns + thread_ % kChunks * 8, columns = a_.in_features;
    x_ = x_tile_ + k;
    low_left_ = exists && k < columns ? tokens_left_ : 0;
    high_left_ = exists && k < columns && columns - k > 4 ? tokens_left_ : 0;
  }

  // Issues a share of the copies of the slab.  to: this thread's place in its slot.
  template <int Share, int Shares>
  PATCH_DEVICE void copy(uint8_t* to) const {
    for_each_index<kWeightCopies>([&](auto index) {
      constexpr int j = decltype(index)::value;
      if constexpr (j * Shares / kWeightCopies == Share) copy_weights<j>(to);
    });
    for_each_index<kRowCopies>([&](auto index) {
      constexpr int j = decltype(index)::value;
      if constexpr (j * Shares / kRowCopies == Share) copy_x<j>(to);
    });
  }

 private:
  static constexpr int kChunks = kSlabColumns / 8;     // of 16 bytes, per row of X
  static constexpr int kRows = G::kThreads / kChunks;  // rows of X that the block copies at a time
  static constexpr int kRowCopies = G::kTokens / kRows;
  static constexpr int kRound = 16 * G::kThreads;  // bytes that the block copies at a time
  static constexpr int kWeightCopies = G::kDenseBytes / kRound;
  static_assert(kRows % 8 == 0, "a thread stays in one column of the swizzle");
  static_assert(kRows * 128 == kRound);
  static_assert(Dense::kValueBytes + Dense::kExtraBytes <= G::kDenseBytes);
  static_assert(Sparse::kValueBytes + Sparse::kExtraBytes <= G::kDenseBytes);
  static_assert(Dense::kValueBytes % 128 == 0 && Sparse::kValueBytes % 128 == 0,
                "threads that copy 128 bytes (see place) copy from one tensor");
  static_assert(Dense::kExtraBytes == 0, "the first stream has one tensor");

  template <class V>
  PATCH_DEVICE static const uint8_t* bytes(const V* p) {
    return reinterpret_cast<const uint8_t*>(p);
  }
  // Bytes of round j of a kind: from its first tensor, from its second one in all or some threads, or none.
  template <class Kind>
  PATCH_DEVICE static constexpr bool has_some(int j) {
    return j * kRound < Kind::kValueBytes + Kind::kExtraBytes;
  }
  template <int Bytes, int J>
  PATCH_DEVICE bool within() const {
    constexpr int rest = Bytes - J * kRound;
    if constexpr (rest <= 0 || rest >= kRound)
      return rest > 0;
    else
      return thread_ < rest / 16;
  }
  template <class Kind, int J>
  PATCH_DEVICE bool here() const {
    return within<Kind::kValueBytes + Kind::kExtraBytes, J>();
  }
  // Which tensor round j comes from; where the kind has nothing to copy, the one that the other kind takes.
  template <class Kind, class Other, int J>
  PATCH_DEVICE bool from_values() const {
    if constexpr (has_some<Kind>(J))
      return within<Kind::kValueBytes, J>();
    else
      return within<Other::kValueBytes, J>();
  }

  template <int J>
  PATCH_DEVICE void copy_weights(uint8_t* to) const {
    const bool values = dense_ ? from_values<Dense, Sparse, J>() : from_values<Sparse, Dense, J>();
    const uint8_t* from = values ? values_ : extra_;
    copy_weights_async<J * kRound>(to, from, policy_,
                                   (dense_ && here<Dense, J>()) || (sparse_ && here<Sparse, J>()));
  }

  // Fills rows beyond `tokens` and columns beyond `in_features` with zeros, without reading them.  The memory
  // there may hold a NaN or belong to another tensor, and a NaN times a zero weight is a NaN.
  template <int J>
  PATCH_DEVICE void copy_x(uint8_t* to) const {
    const uint16_t* from = x_ + static_cast<int64_t>(J * kRows) * a_.in_features;
    copy_tokens_async<G::kDenseBytes + J * kRound>(to, from, low_left_ > J * kRows, high_left_ > J * kRows,
                                                   a_.x_vector);
  }

  const LinearArguments& a_;
  Hint policy_;
  int thread_;
  bool dense_ = false, sparse_ = false;  // the kind of the slab, if it exists
  int tokens_left_ = 0;                  // rows of X from this thread's first one on
  int low_left_ = 0, high_left_ = 0;     // the same for the halves of a copy, 0 beyond the last column
  const uint16_t *x_tile_ = nullptr, *x_ = nullptr;
  const uint8_t *values_ = nullptr, *extra_ = nullptr;
};

}  // namespace patch
