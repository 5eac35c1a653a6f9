// Copies of slabs, and of the tile of X beside them, into shared memory.  They have no branches, so that the
// compiler can put them between products: a copy that a kind of slab does not need is predicated off, and
// one of what is not there has size zero.
#pragma once
#include "kernels/copy_inputs.cuh"
#include "kernels/slabs.cuh"
#include "kernels/streams.cuh"

namespace patch {

template <class V>
PATCH_DEVICE const uint8_t* bytes_of(const V* p) {
  return reinterpret_cast<const uint8_t*>(p);
}

// The copies of one slab at a time, those of one thread.
template <class T, class G, class Hint>
class SlabCopies {
 public:
  PATCH_DEVICE SlabCopies(const LinearArguments& a, Hint policy, int thread)
      : inputs_(a, thread), policy_(policy), thread_(thread) {}
  // Byte of a slot at which this thread's copies begin, as many bytes from the last as the block copies at a
  // time.  It is X's (copy_inputs.cuh); any order would do for W.
  PATCH_DEVICE static int place(int thread) { return Inputs<G>::place(thread); }
  PATCH_DEVICE int place() const { return place(thread_); }

  // Rows first_token .. of X are copied from now on.
  PATCH_DEVICE void begin_tile(int first_token) { inputs_.begin_tile(first_token); }
  // A slab is copied next, with the 64 columns of X from 64 * `column`, if it exists.  values, extra:
  // addresses of this thread's first bytes, if the slab were wholly in the first or in the second tensor of
  // its kind.
  PATCH_DEVICE void aim(const uint8_t* values, const uint8_t* extra, int value_bytes, int extra_bytes,
                        int column, bool exists) {
    values_ = values, extra_ = extra;
    values_left_ = value_bytes - thread_ / 8 * 128;  // as `place`, within a row of 128 bytes
    bytes_left_ = exists ? values_left_ + extra_bytes : 0;
    inputs_.aim(column, exists);
  }

  // Issues a share of the copies of the slab.  to: this thread's place in its slot.
  template <int Share, int Shares>
  PATCH_DEVICE void copy(uint8_t* to) const {
    for_each_index<kWeightCopies>([&](auto index) {
      constexpr int j = decltype(index)::value;
      if constexpr (j * Shares / kWeightCopies == Share) copy_weights<j>(to);
    });
    constexpr int kRowCopies = Inputs<G>::kCopies;
    for_each_index<kRowCopies>([&](auto index) {
      constexpr int j = decltype(index)::value;
      if constexpr (j * Shares / kRowCopies == Share) inputs_.template copy<j>(to);
    });
  }

 private:
  static constexpr int kRound = 16 * G::kThreads;  // bytes that the block copies at a time
  static constexpr int kWeightCopies = (G::kSlabBytes + kRound - 1) / kRound;
  template <int Kind = 0>
  PATCH_DEVICE static constexpr bool fit() {
    if constexpr (Kind == G::kKinds) {
      return true;
    } else {
      using D = Decoder<T, G, Kind>;
      return D::kValueBytes + D::kExtraBytes <= G::kSlabBytes && D::kValueBytes % 128 == 0 &&
             D::kExtraBytes % 128 == 0 && fit<Kind + 1>();
    }
  }
  static_assert(fit(), "threads that copy 128 bytes (see place) copy all of them from one tensor");

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

  Inputs<G> inputs_;
  Hint policy_;
  int thread_;
  // The slab: addresses, and the bytes from this thread's first one on.  No bytes if it does not exist.
  const uint8_t *values_ = nullptr, *extra_ = nullptr;
  int values_left_ = 0, bytes_left_ = 0;
};

// Copies the slabs of a stream's walk, one after another.
template <class T, class G>
class StreamSupply {
 public:
  using Walk = SlabWalk<G>;

  // column: K / 64 of the slab with which the walk begins, if its first tile has one.
  PATCH_DEVICE StreamSupply(const LinearArguments& a, const Walk& walk, int column, Policy policy, int thread)
      : a_(a), walk_(walk), copies_(a, policy, thread), column_(column) {
    if (!walk_.more()) return;
    begin_run();
    if (walk_.moved()) column_ = load_index(columns_);
    if (thread == 0) request(walk_.left() < G::kStages ? walk_.left() : G::kStages, policy);
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
    copies_.aim(values_, extra_, value_bytes_, extra_bytes_, column_, more_);
    if (!more_) return;
    values_ += value_bytes_, extra_ += extra_bytes_, ++columns_;
    if (walk_.next()) {
      if (!walk_.more()) return;
      begin_run();
    }
    column_ = load_index(columns_);
  }

 private:
  PATCH_DEVICE void begin_run() {
    const Slabs& slabs = a_.slabs[walk_.kind()];
    const int64_t row = walk_.row();
    copies_.begin_tile(walk_.first_token());
    value_bytes_ = slabs.value_bytes, extra_bytes_ = slabs.extra_bytes;
    values_ = bytes_of(slabs.values) + row * value_bytes_ + copies_.place();
    // Extra bytes lie behind the values in a slot.
    extra_ = bytes_of(slabs.extra) + row * extra_bytes_ + copies_.place() - value_bytes_;
    columns_ = columns_of<G>(a_, walk_.kind()) + row;
  }
  // Asks for the next slabs of the run, so that they come from DRAM while earlier launches end.  Called by
  // the thread with which a slot begins.
  PATCH_DEVICE void request(int slabs, Policy policy) const {
    request_weights(values_, slabs * value_bytes_, policy);
    if (extra_bytes_ > 0) request_weights(extra_ + value_bytes_, slabs * extra_bytes_, policy);
  }

  const LinearArguments& a_;
  Walk walk_;
  SlabCopies<T, G, Policy> copies_;
  // The run: addresses of its next slab and of that one's column, and bytes of a slab.
  const uint8_t *values_ = nullptr, *extra_ = nullptr;
  const int32_t* columns_ = nullptr;
  int value_bytes_ = 0, extra_bytes_ = 0;
  bool more_ = false;  // there is a slab to copy
  int column_;         // K / 64 of the walk's slab
};

// Copies the slabs of one panel, one after another, of two kinds: the place of a slab is quickly found, and
// takes fewer registers than a walk.
template <class T, class G>
class TwoKindsSupply {
 public:
  PATCH_DEVICE TwoKindsSupply(const LinearArguments& a, const Panel<G>& panel, int first_token, int thread)
      : a_(a), panel_(panel), copies_(a, NoPolicy(), thread) {
    copies_.begin_tile(first_token);
    if (panel_.slabs() == 0) return;
    column_ = column(0);
    aim();
  }
  template <int Share, int Shares>
  PATCH_DEVICE void copy(uint8_t* slot) const {
    copies_.template copy<Share, Shares>(slot);
  }
  PATCH_DEVICE bool more() const { return slab_ < panel_.slabs(); }
  PATCH_DEVICE void next() {
    ++slab_;
    aim();
  }

 private:
  using First = Decoder<T, G, 0>;
  using Second = Decoder<T, G, 1>;
  static_assert(G::kKinds == 2 && First::kExtraBytes == 0);

  PATCH_DEVICE bool is_first(int i) const { return i < panel_.ends[0]; }
  // Row of slab i in the tensors of its kind.
  PATCH_DEVICE int row(int i) const {
    return i + (is_first(i) ? panel_.first[0] : panel_.first[1] - panel_.ends[0]);
  }
  // K / 64 of slab i.  W has slabs, though maybe not this one: its column is not used.
  PATCH_DEVICE int column(int i) const {
    const int slab = row(i) + (is_first(i) ? 0 : a_.slabs[1].before);
    const int last = a_.slabs[0].count + a_.slabs[1].count - 1;
    return load_index(columns_of<G>(a_, 0) + (slab < last ? slab : last));
  }
  // Aims at the slab, and loads the column of the next one.
  PATCH_DEVICE void aim() {
    const bool first = is_first(slab_);
    const int64_t at = row(slab_);
    const int bytes = first ? First::kValueBytes : Second::kValueBytes;
    const uint8_t* values = bytes_of(first ? a_.slabs[0].values : a_.slabs[1].values) + at * bytes;
    const uint8_t* extra = bytes_of(a_.slabs[1].extra) + at * Second::kExtraBytes - bytes;
    copies_.aim(values + copies_.place(), extra + copies_.place(), bytes, first ? 0 : Second::kExtraBytes,
                column_, more());
    column_ = column(slab_ + 1);
  }

  const LinearArguments& a_;
  const Panel<G>& panel_;
  SlabCopies<T, G, NoPolicy> copies_;
  int slab_ = 0;
  int column_ = 0;  // K / 64 of the next slab, loaded one slab ahead
};

// The same for more kinds.
template <class T, class G>
class KindsSupply {
 public:
  PATCH_DEVICE KindsSupply(const LinearArguments& a, const Panel<G>& panel, int first_token, int thread)
      : a_(a), panel_(panel), copies_(a, NoPolicy(), thread) {
    copies_.begin_tile(first_token);
    if (panel_.slabs() == 0) return;
    find(0);
    aim();
  }
  template <int Share, int Shares>
  PATCH_DEVICE void copy(uint8_t* slot) const {
    copies_.template copy<Share, Shares>(slot);
  }
  PATCH_DEVICE bool more() const { return slab_ < panel_.slabs(); }
  PATCH_DEVICE void next() {
    ++slab_;
    aim();
  }

 private:
  // Finds slab i, and loads its column.  W has slabs, though maybe not this one: its column is not used.
  PATCH_DEVICE void find(int i) {
    kind_ = 0, row_ = i + panel_.first[0];
    PATCH_UNROLL
    for (int kind = 1; kind < G::kKinds; ++kind)
      if (i >= panel_.ends[kind - 1]) kind_ = kind, row_ = i + (panel_.first[kind] - panel_.ends[kind - 1]);
    const Slabs& last = a_.slabs[G::kKinds - 1];
    const int slab = a_.slabs[kind_].before + row_, end = last.before + last.count - 1;
    column_ = load_index(columns_of<G>(a_, 0) + (slab < end ? slab : end));
  }
  // Aims at the slab, and finds the next one.
  PATCH_DEVICE void aim() {
    const Slabs& own = a_.slabs[kind_];
    const int64_t at = row_;
    copies_.aim(bytes_of(own.values) + at * own.value_bytes + copies_.place(),
                bytes_of(own.extra) + at * own.extra_bytes - own.value_bytes + copies_.place(),
                own.value_bytes, own.extra_bytes, column_, more());
    find(slab_ + 1);
  }

  const LinearArguments& a_;
  const Panel<G>& panel_;
  SlabCopies<T, G, NoPolicy> copies_;
  int slab_ = 0;
  int kind_ = 0, row_ = 0, column_ = 0;  // of the next slab; the column is loaded one slab ahead
};

template <class T, class G>
using PanelSupply = std::conditional_t<G::kKinds == 2, TwoKindsSupply<T, G>, KindsSupply<T, G>>;

}  // namespace patch
