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
  // The slabs from this row of a kind on are next.
  PATCH_DEVICE void begin_run(int kind, int row) {
    const Slabs& slabs = a_.slabs[kind];
    value_bytes_ = slabs.value_bytes, extra_bytes_ = slabs.extra_bytes;
    next_values_ = bytes(slabs.values) + static_cast<int64_t>(row) * value_bytes_ + place(thread_);
    // Extra bytes lie behind the values in a slot.
    next_extra_ =
        bytes(slabs.extra) + static_cast<int64_t>(row) * extra_bytes_ + place(thread_) - value_bytes_;
    next_column_ = columns_of<G>(a_, kind) + row;
  }
  // K / 64 of the next slab.
  PATCH_DEVICE int column() const { return load_index(next_column_); }
  // The next slab is copied, with the 64 columns of X from 64 * `column`, if there is such a slab.
  PATCH_DEVICE void aim(int column, bool exists) {
    values_ = next_values_, next_values_ += value_bytes_;
    extra_ = next_extra_, next_extra_ += extra_bytes_;
    ++next_column_;
    values_left_ = value_bytes_ - thread_ / kChunks * 128;  // as `place`, within a row of 128 bytes
    bytes_left_ = exists ? values_left_ + extra_bytes_ : 0;
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
  template <int Kind = 0>
  PATCH_DEVICE static constexpr bool fit() {
    if constexpr (Kind == G::kKinds) {
      return true;
    } else {
      using D = Decoder<T, G, Kind>;
      return D::kValueBytes + D::kExtraBytes <= G::kDenseBytes && D::kValueBytes % 128 == 0 &&
             D::kExtraBytes % 128 == 0 && fit<Kind + 1>();
    }
  }
  static_assert(fit(), "threads that copy 128 bytes (see place) copy all of them from one tensor");

  template <class V>
  PATCH_DEVICE static const uint8_t* bytes(const V* p) {
    return reinterpret_cast<const uint8_t*>(p);
  }
  // Returns true if round J copies extra bytes of some kind.
  template <int J, int Kind = 0>
  PATCH_DEVICE static constexpr bool has_extra() {
    if constexpr (Kind == G::kKinds) {
      return false;
    } else {
      constexpr int begin = Decoder<T, G, Kind>::kValueBytes;
      constexpr int end = begin + Decoder<T, G, Kind>::kExtraBytes;
      return (begin < end && begin < (J + 1) * kRound && end > J * kRound) || has_extra<J, Kind + 1>();
    }
  }

  template <int J>
  PATCH_DEVICE void copy_weights(uint8_t* to) const {
    const uint8_t* from = values_;
    if constexpr (has_extra<J>()) from = values_left_ > J * kRound ? values_ : extra_;
    copy_weights_async<J * kRound>(to, from, policy_, bytes_left_ > J * kRound);
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
  // The run: addresses of its next slab, and bytes of a slab.
  const uint8_t *next_values_ = nullptr, *next_extra_ = nullptr;
  const int32_t* next_column_ = nullptr;
  int value_bytes_ = 0, extra_bytes_ = 0;
  // The slab: addresses, and the bytes from this thread's first one on.  No bytes if it does not exist.
  const uint8_t *values_ = nullptr, *extra_ = nullptr;
  int values_left_ = 0, bytes_left_ = 0;
  int tokens_left_ = 0;               // rows of X from this thread's first one on
  int low_left_ = 0, high_left_ = 0;  // the same for the halves of a copy, 0 beyond the last column
  const uint16_t *x_tile_ = nullptr, *x_ = nullptr;
};

// Stands for the column of a slab that is not known.
inline constexpr int kNoColumn = -1;

// Copies the slabs of a walk, one after another.
template <class T, class G, class Arguments, class Hint>
class SlabSupply {
 public:
  using Walk = SlabWalk<G, Arguments>;

  // column: K / 64 of the slab with which the walk begins, if its first tile has one, or kNoColumn.
  PATCH_DEVICE SlabSupply(const Arguments& s, const Walk& walk, int column, Hint policy, int thread)
      : walk_(walk), copies_(linear_of(s), policy, thread), column_(column) {
    if (!walk_.more()) return;
    begin_run();
    if (column == kNoColumn || walk_.moved()) column_ = copies_.column();
    next();
  }
  template <int Share, int Shares>
  PATCH_DEVICE void copy(uint8_t* slot) const {
    copies_.template copy<Share, Shares>(slot);
  }
  PATCH_DEVICE bool more() const { return more_; }
  // Aims at the next slab, and loads the column of the one after it.
  PATCH_DEVICE void next() {
    more_ = walk_.more();
    copies_.aim(column_, more_);
    if (!more_) return;
    if (walk_.next()) {
      if (!walk_.more()) return;
      begin_run();
    }
    column_ = copies_.column();
  }

 private:
  PATCH_DEVICE void begin_run() {
    copies_.begin_tile(walk_.first_token());
    copies_.begin_run(walk_.kind(), walk_.row());
  }

  Walk walk_;
  SlabCopies<T, G, Hint> copies_;
  bool more_ = false;  // there is a slab to copy
  int column_;         // K / 64 of the walk's slab
};

}  // namespace patch
