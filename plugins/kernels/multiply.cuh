// The loop over slabs: a ring of slots in shared memory, and the products of what lies in them.
//
//   products of unit   | 0 | 1 | 2 | ...     | U-3 | U-2 | U-1 |      U units of slab i
//   loads of unit      | 3 | 4 | 5 | ...     |  0  |  1  |  2  |      kAhead = 3 units ahead: into slab i + 1
//                                            ^ turn: wait until slab i + 1 is there, barrier
//   copies             ...........           [..................      of slab i + kStages, into slab i's slot
//
// So tensor cores need not wait for shared memory at the start of a slab, and copies are spread between
// products.  After a turn no thread reads the slot of slab i.
#pragma once
#include "kernels/copies.cuh"

namespace patch {

// Slots in shared memory, filled up to kStages slabs ahead.  Supply gives the slabs: `more` says if there is
// a current one, `copy` issues a share of its copies, `next` goes to the one after it.
template <class G, class Supply>
class Ring {
 public:
  PATCH_DEVICE Ring(uint8_t* shared, Supply& supply, int place)
      : shared_(shared), fill_(shared + place), supply_(supply) {
    for_each_index<G::kStages - 1>([&](auto) {
      supply_.template copy<0, 1>(fill_);
      commit_copies();
      if (supply_.more()) supply_.next();
      fill_ += G::kStageBytes;
    });
    // The last slot is filled as after a turn: the first slab's units issue the shares that are left.
    constexpr int shares = Plan::kFills < Plan::kAhead ? Plan::kFills : Plan::kAhead;
    for_each_index<shares>([&](auto share) { fill<decltype(share)::value>(); });
    wait_copies<G::kStages - (Plan::kFills > shares ? 2 : 1)>();
    sync_block();  // all copies of the first slab are done
  }
  // The slot of the slab that is multiplied.
  PATCH_DEVICE const uint8_t* slot() const { return shared_ + read_; }
  // Goes to the next slab, after all loads from this one.  All threads call this.  A run of slabs of one kind
  // ends by loading, in vain, what lies in the slot after its last one, whatever that is.
  PATCH_DEVICE void turn() {
    wait_copies<G::kStages - 2>();
    sync_block();  // all copies of the next slab are done, and no thread reads this one's slot
    read_ = read_ + G::kStageBytes == G::kRingBytes ? 0 : read_ + G::kStageBytes;
  }
  // Prepares the copies into the slot that the next turn frees.
  PATCH_DEVICE void prepare() { supply_.next(); }
  // Issues a share of them, after that turn.
  template <int Share>
  PATCH_DEVICE void fill() {
    if constexpr (Share < Plan::kFills) supply_.template copy<Share, Plan::kFills>(fill_);
    if constexpr (Share + 1 != Plan::kFills) return;
    commit_copies();  // also when there was nothing to copy: wait_copies counts groups
    fill_ += read_ == 0 ? G::kStageBytes - G::kRingBytes : G::kStageBytes;
  }
  // Waits for all copies, before shared memory is used otherwise.
  PATCH_DEVICE void finish() {
    commit_copies();
    wait_copies<0>();
  }

 private:
  using Plan = Units<G, false>;

  uint8_t *shared_, *fill_;  // of all threads, and this thread's place in the slot that is filled next
  Supply& supply_;
  int read_ = 0;
};

// Multiplies `slabs` slabs of one kind.
template <class D, class G, class Ring>
PATCH_DEVICE void multiply_stream(Sums<G>& acc, int slabs, Ring& ring, const Place<G>& at) {
  if (slabs <= 0) return;
  using U = Units<G, D::kSparse>;
  const int place = U::place(at);
  D weights;  // NOLINT(cppcoreguidelines-pro-type-member-init): each unit is loaded before its products
  uint32_t tokens[U::kSlots][4];
  const auto load = [&](auto index) {
    constexpr int unit = decltype(index)::value;
    if constexpr (unit % U::kPerStep == 0) weights.template load<unit / U::kPerStep>(ring.slot(), at);
    U::template load<unit>(tokens[unit % U::kSlots], ring.slot(), place);
  };
  for_each_index<U::kAhead>(load);
  do {
    weights.begin_slab();
    for_each_index<U::kCount>([&](auto index) {
      constexpr int unit = decltype(index)::value, later = (unit + U::kAhead) % U::kCount;
      constexpr int step = unit / U::kPerStep, n = unit % U::kPerStep;
      if constexpr (later == 0) {
        ring.prepare();
        ring.turn();
      }
      load(Index<later>());
      ring.template fill<later>();
      const uint32_t (&b)[4] = tokens[unit % U::kSlots];
      PATCH_UNROLL
      for (int m = 0; m < G::kWarpRows; ++m) {
        if constexpr (D::kSparse) {
          weights.template multiply<step>(acc[m][n], m, b);
        } else {
          weights.template multiply<step>(acc[m][2 * n], m, b[0], b[1]);
          weights.template multiply<step>(acc[m][2 * n + 1], m, b[2], b[3]);
        }
      }
    });
  } while (--slabs);
}

// The same for products of int8.  A row block of the next slab takes the registers of this slab's, whose last
// products are begun before.
template <class D, class G, class Ring>
PATCH_DEVICE void multiply_byte_stream(Sums<G>& acc, int slabs, Ring& ring, const Place<G>& at) {
  if (slabs <= 0) return;
  using U = Units<G, D::kSparse>;
  const int place = U::place(at);
  D weights;  // NOLINT(cppcoreguidelines-pro-type-member-init): loaded before its products
  uint32_t tokens[U::kSlots][4];
  PATCH_UNROLL
  for (int m = 0; m < G::kWarpRows; ++m) weights.load(m, ring.slot(), at);
  for_each_index<U::kAhead>([&](auto index) {
    constexpr int unit = decltype(index)::value;
    U::template load<unit>(tokens[unit], ring.slot(), place);
  });
  const auto turn = [&](auto index) {
    if constexpr (decltype(index)::value + U::kAhead == U::kCount) ring.turn();
  };
  const auto load_later = [&](auto index) {
    constexpr int later = (decltype(index)::value + U::kAhead) % U::kCount;
    U::template load<later>(tokens[later % U::kSlots], ring.slot(), place);
  };
  const auto fill = [&](auto index) {
    ring.template fill<(decltype(index)::value + U::kAhead) % U::kCount>();
  };
  const auto multiply_rows = [&](auto index, int m) {
    constexpr int unit = decltype(index)::value;
    for_each_index<D::kSteps>([&](auto step) {
      weights.template multiply<decltype(step)::value>(acc[m][unit], m, tokens[unit % U::kSlots]);
    });
  };
  // Multiplies a slab, calls and_then(unit, its tokens) after each unit, and loads the next slab.  If D has
  // windows, the last units go row block by row block, each of which is then loaded while the others are
  // multiplied: 6:8 slabs have as much to load as to multiply (simulated: issue.py).
  constexpr int kLast = !D::kMiddle ? 0 : U::kAhead > 1 ? 2 : 1, kFirst = U::kCount - kLast;
  // A slab of so many tokens takes little longer than a copy.
  constexpr bool kCopiesFirst = G::kTokens >= 128;
  const auto multiply_slab = [&](const auto& and_then) {
    ring.prepare();  // its branches are in no product's way here
    for_each_index<kFirst>([&](auto index) {
      turn(index);
      if constexpr (kCopiesFirst) fill(index);
      load_later(index);
      if constexpr (!kCopiesFirst) fill(index);
      PATCH_UNROLL
      for (int m = 0; m < G::kWarpRows; ++m) multiply_rows(index, m);
      and_then(index, tokens[decltype(index)::value % U::kSlots]);
    });
    for_each_index<U::kCount, kFirst>([&](auto index) {
      turn(index);
      if constexpr (kCopiesFirst) fill(index);
    });
    for_each_index<kFirst + (kLast > 0), kFirst>(load_later);
    if constexpr (!kCopiesFirst) for_each_index<U::kCount, kFirst>(fill);
    PATCH_UNROLL
    for (int m = 0; m < G::kWarpRows; ++m) {
      for_each_index<U::kCount, kFirst>([&](auto index) { multiply_rows(index, m); });
      weights.load(m, ring.slot(), at);
    }
    for_each_index<U::kCount, kFirst>(
        [&](auto index) { and_then(index, tokens[decltype(index)::value % U::kSlots]); });
    for_each_index<U::kCount, kFirst + 1>(load_later);  // into the slots of units before
  };
  if constexpr (!D::kPairs) {
    do {
      multiply_slab([](auto, const uint32_t (&)[4]) {});
    } while (--slabs);
  } else {
    uint32_t middle[U::kCount][4];
    const auto load_middle = [&](auto odd) {
      PATCH_UNROLL
      for (int m = 0; m < G::kWarpRows; ++m)
        weights.template load_middle<decltype(odd)::value>(m, ring.slot(), at);
    };
    const auto multiply_pair = [&](auto index) {
      constexpr int unit = decltype(index)::value;
      PATCH_UNROLL
      for (int m = 0; m < G::kWarpRows; ++m) weights.multiply_pair(acc[m][unit], m, middle[unit]);
    };
    // The middle products of the later units are multiplied while the next pair is loaded.
    constexpr int kLate = U::kCount / 2;
    do {
      multiply_slab([&](auto index, const uint32_t (&b)[4]) {
        constexpr int unit = decltype(index)::value;
        middle[unit][0] = D::middle_of(b, 0), middle[unit][1] = D::middle_of(b, 1);
        if constexpr (unit == 0) load_middle(Index<0>());
      });
      if (--slabs == 0) {
        weights.end_pair();
        for_each_index<U::kCount>([&](auto index) {
          constexpr int unit = decltype(index)::value;
          middle[unit][2] = middle[unit][3] = 0;
          multiply_pair(index);
        });
        return;
      }
      multiply_slab([&](auto index, const uint32_t (&b)[4]) {
        constexpr int unit = decltype(index)::value;
        middle[unit][2] = D::middle_of(b, 0), middle[unit][3] = D::middle_of(b, 1);
        if constexpr (unit == 0) load_middle(Index<1>());
        if constexpr (unit > 0 && unit <= kLate) multiply_pair(Index<unit - 1>());
      });
      for_each_index<U::kCount, kLate>(multiply_pair);
    } while (--slabs);
  }
}

// Multiplies the slabs from i to `end` of a panel into their sums.
template <class T, class G, class Ring>
PATCH_DEVICE void multiply_slabs(Sums<G>& sums, const Panel<G>& p, int i, int end, Ring& ring,
                                 const Place<G>& at) {
  for_each_index<G::kKinds>([&](auto index) {
    constexpr int kind = decltype(index)::value;
    using D = Decoder<T, G, kind>;
    const int stop = p.ends[kind] < end ? p.ends[kind] : end;
    if constexpr (G::kWeights == Weights::kW8A8)
      multiply_byte_stream<D, G>(sums, stop - i, ring, at);
    else
      multiply_stream<D, G>(sums, stop - i, ring, at);
    if (i < stop) i = stop;
  });
}

}  // namespace patch
