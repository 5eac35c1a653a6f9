// Slabs of the hybrid tile GEMM  Y[M, N] = X[M, K] W[N, K]^T + bias: their layout, their copies into shared
// memory and their products.  The GEMM is computed as Y^T = W X^T, so that W is operand A, the only operand
// of mma.sp that can be sparse.
//
// W is stored as slabs of one panel (64 or 128 rows) x 64 columns, in the order of mma's registers:
//
//            K ->  slab 0   slab 1   slab 2   slab 3       in memory
//   panel 0      | dense  |  2:4   | dense  |  2:4   |     `dense`:  dense slabs of panel 0, of panel 1, ...
//   panel 1      |  2:4   |  2:4   | dense  | dense  |     `sparse`: 2:4 slabs of panel 0, of panel 1, ...
//
//   dense slab   [k16: 4][16-row block][lane: 32][8 values]      one 16-byte load = one lane's A fragment
//   2:4 slab     [k32: 2][16-row block][lane: 32][8 values]      the kept half, and
//   metadata            [16-row block][lane: 32] words           low half row g, high half row g + 8;
//                                                                lanes 4g, 4g+1: first k32 (selector 0),
//                                                                4g+2, 4g+3: second
//
//   one fragment (lane = 4g + t)       columns 2t, 2t+1   2t+8, 2t+9
//                            row g          0, 1             4, 5
//                            row g + 8      2, 3             6, 7      <- position among the lane's 8 values
//
// A block multiplies a panel by `kTokens` rows of X, dense slabs first and then 2:4 slabs, into the same fp32
// accumulators:
//
//      ring of kStages slots in shared memory          [ W slab | X tile ] [ W slab | X tile ] ...
//      X tile: 128 B rows; 16-byte chunk q of row r lies at q ^ (r & 7), so ldmatrix has no bank conflicts
#pragma once
#include "kernels/arguments.h"
#include "kernels/config.h"
#include "kernels/ptx.cuh"

namespace patch {

// Slabs of one panel of Y: first `dense` dense slabs, then `sparse` 2:4 slabs.  If gated, these are the slabs
// of two packed panels, and the gate's come first among those of each kind.
template <class G>
struct Panel {
  int number, dense, sparse, first_dense, first_sparse;
  int gate_dense, gate_sparse;  // the gate's slabs, if gated
  const int32_t *dense_columns, *sparse_columns;

  PATCH_DEVICE Panel(const LinearArguments& a, int panel) : number(panel) {
    const int32_t* dense_ptr = a.index;
    const int32_t* sparse_ptr = dense_ptr + a.panels * G::kPanels + 1;
    const int32_t* columns = sparse_ptr + a.panels * G::kPanels + 1;
    const int packed = panel * G::kPanels;
    const Run dense_run = run_between(load_index(dense_ptr + packed),
                                      load_index(dense_ptr + packed + G::kPanels), a.dense_slabs);
    const Run sparse_run = run_between(load_index(sparse_ptr + packed),
                                       load_index(sparse_ptr + packed + G::kPanels), a.sparse_slabs);
    first_dense = dense_run.first, dense = dense_run.count;
    first_sparse = sparse_run.first, sparse = sparse_run.count;
    if constexpr (G::kGated) {
      gate_dense = slabs_until(load_index(dense_ptr + packed + 1), first_dense, dense);
      gate_sparse = slabs_until(load_index(sparse_ptr + packed + 1), first_sparse, sparse);
    }
    dense_columns = columns + first_dense;
    sparse_columns = columns + a.dense_slabs + first_sparse;
  }
  // K / 64 of slab i; any number, if the index lies (see copy_x)
  PATCH_DEVICE int column(int i) const {
    return load_index(i < dense ? dense_columns + i : sparse_columns + (i - dense));
  }
};

// Warp and lane of this thread.
template <class G>
struct Place {
  int thread = thread_index();
  int lane = thread & 31;
  int feature_warp = (thread >> 5) % G::kFeatureWarps;
  int token_warp = (thread >> 5) / G::kFeatureWarps;
  int group = lane >> 2;  // PTX's groupID: the fragment row of this lane
  int quad = lane & 3;    // PTX's threadID_in_group
};

template <class G>
using Accumulators = float[G::kWarpRows][G::kWarpTokens][4];
// Accumulators of each packed panel of a tile.
template <class G>
using Sums = float[G::kPanels][G::kWarpRows][G::kWarpTokens][4];

// Returns the first of the 8 rows of W (features of Y) in the lower or upper half of a warp's fragment m.
template <class G>
PATCH_DEVICE int64_t first_row(int panel, int m, int half, const Place<G>& at) {
  return static_cast<int64_t>(panel) * G::kPanelRows + (at.feature_warp * G::kWarpRows + m) * 16 + half * 8;
}

template <class G, int Bytes>
PATCH_DEVICE void copy_bytes(uint8_t* slot, const void* from, Policy policy, int thread) {
  const auto* bytes = static_cast<const uint8_t*>(from);
  PATCH_UNROLL
  for (int j = 0; j < Bytes / (16 * G::kThreads); ++j) {
    const int offset = (j * G::kThreads + thread) * 16;
    copy_weights_async(slot + offset, bytes + offset, policy);
  }
}

template <class G>
PATCH_DEVICE void copy_weights(const LinearArguments& a, const Panel<G>& p, int i, Policy policy,
                               uint8_t* slot, int thread) {
  if (i < p.dense) {
    const int64_t row = p.first_dense + i;
    copy_bytes<G, G::kDenseBytes>(slot, a.dense + row * (G::kDenseBytes / 2), policy, thread);
    return;
  }
  const int64_t row = p.first_sparse + (i - p.dense);
  copy_bytes<G, G::kSparseBytes>(slot, a.sparse + row * (G::kSparseBytes / 2), policy, thread);
  if (thread < G::kMetaBytes / 16)
    copy_weights_async(slot + G::kSparseBytes + thread * 16, a.meta + row * (G::kMetaBytes / 4) + thread * 4,
                       policy);
}

// Fills rows beyond `tokens` and columns beyond `in_features` with zeros, without reading them.  The memory
// there may hold a NaN or belong to another tensor, and a NaN times a zero weight is a NaN.  A negative
// column is beyond `in_features` too, because k is unsigned; a huge one may wrap to another column of X.
template <class G, int Values>
PATCH_DEVICE void copy_x(const LinearArguments& a, int first_token, int column, uint8_t* tile, int thread) {
  constexpr int kChunks = kSlabColumns / Values;
  constexpr int kRows = G::kThreads / kChunks;  // rows that the block copies at a time
  static_assert(kRows % 8 == 0, "a thread stays in one column of the swizzle");
  const int row = thread / kChunks, value = thread % kChunks * Values;
  const uint32_t k = static_cast<uint32_t>(column) * kSlabColumns + value;
  const uint16_t* from = a.x + static_cast<int64_t>(first_token + row) * a.in_features + k;
  uint8_t* to = tile + row * 128 + (((value >> 3) ^ (row & 7)) << 4) + (value & 7) * 2;
  PATCH_UNROLL
  for (int j = 0; j < G::kTokens / kRows; ++j) {
    const bool valid = first_token + row + j * kRows < a.tokens && k < static_cast<uint32_t>(a.in_features);
    copy_async<2 * Values>(to + j * kRows * 128, valid ? from : a.x, valid);
    from += static_cast<int64_t>(kRows) * a.in_features;
  }
}

template <class G>
PATCH_DEVICE void copy_slab(const LinearArguments& a, const Panel<G>& p, int i, int column, int first_token,
                            Policy policy, uint8_t* slot, int thread) {
  copy_weights<G>(a, p, i, policy, slot, thread);
  if (a.x_vector == 8)
    copy_x<G, 8>(a, first_token, column, slot + G::kDenseBytes, thread);
  else
    copy_x<G, 4>(a, first_token, column, slot + G::kDenseBytes, thread);
}

// Loads operand B for 32 columns of K: b[block][j] is the 8x8 matrix at columns 8j.
template <class G>
PATCH_DEVICE void load_tokens(uint32_t (&b)[G::kWarpTokens][4], const uint8_t* slot, int k32,
                              const Place<G>& at) {
  PATCH_UNROLL
  for (int n = 0; n < G::kWarpTokens; ++n) {
    const int row = (at.token_warp * G::kWarpTokens + n) * 8 + (at.lane & 7);
    const int chunk = k32 * 4 + (at.lane >> 3);
    load_matrices(b[n], slot + G::kDenseBytes + row * 128 + ((chunk ^ (row & 7)) << 4));
  }
}

template <class T, class G>
PATCH_DEVICE void multiply_dense(Accumulators<G>& acc, const uint8_t* slot, const Place<G>& at) {
  PATCH_UNROLL
  for (int k32 = 0; k32 < 2; ++k32) {
    uint32_t b[G::kWarpTokens][4];
    load_tokens<G>(b, slot, k32, at);
    PATCH_UNROLL
    for (int half = 0; half < 2; ++half) {
      PATCH_UNROLL
      for (int m = 0; m < G::kWarpRows; ++m) {
        const int block = (k32 * 2 + half) * G::kRowBlocks + at.feature_warp * G::kWarpRows + m;
        uint32_t w[4];
        load_shared(w, slot + block * 512 + at.lane * 16);
        PATCH_UNROLL
        for (int n = 0; n < G::kWarpTokens; ++n) T::mma(acc[m][n], w, b[n][2 * half], b[n][2 * half + 1]);
      }
    }
  }
}

template <class T, class G, int K32>
PATCH_DEVICE void multiply_sparse_k32(Accumulators<G>& acc, const uint8_t* slot,
                                      const uint32_t (&meta)[G::kWarpRows], const Place<G>& at) {
  uint32_t b[G::kWarpTokens][4];
  load_tokens<G>(b, slot, K32, at);
  PATCH_UNROLL
  for (int m = 0; m < G::kWarpRows; ++m) {
    const int block = K32 * G::kRowBlocks + at.feature_warp * G::kWarpRows + m;
    uint32_t w[4];
    load_shared(w, slot + block * 512 + at.lane * 16);
    PATCH_UNROLL
    for (int n = 0; n < G::kWarpTokens; ++n) T::template mma_sp<K32>(acc[m][n], w, b[n], meta[m]);
  }
}

template <class T, class G>
PATCH_DEVICE void multiply_sparse(Accumulators<G>& acc, const uint8_t* slot, const Place<G>& at) {
  uint32_t meta[G::kWarpRows];
  PATCH_UNROLL
  for (int m = 0; m < G::kWarpRows; ++m) {
    const int block = at.feature_warp * G::kWarpRows + m;
    meta[m] = load_shared_word(slot + G::kSparseBytes + block * 128 + at.lane * 4);
  }
  multiply_sparse_k32<T, G, 0>(acc, slot, meta, at);
  multiply_sparse_k32<T, G, 1>(acc, slot, meta, at);
}

// Multiplies the slabs from i to `end` of a panel into their sums.  `turn` returns the slot of the next slab.
template <class T, class G, class Turn>
PATCH_DEVICE void multiply_slabs(Sums<G>& sums, const Panel<G>& p, int i, int end, const Turn& turn,
                                 const Place<G>& at) {
  if constexpr (G::kGated)
    for (; i < end && i < p.gate_dense; ++i) multiply_dense<T, G>(sums[0], turn(), at);
  for (; i < end && i < p.dense; ++i) multiply_dense<T, G>(sums[G::kPanels - 1], turn(), at);
  if constexpr (G::kGated)
    for (; i < end && i < p.dense + p.gate_sparse; ++i) multiply_sparse<T, G>(sums[0], turn(), at);
  for (; i < end; ++i) multiply_sparse<T, G>(sums[G::kPanels - 1], turn(), at);
}

template <class G>
PATCH_DEVICE void clear(Sums<G>& sums) {
  PATCH_UNROLL
  for (int f = 0; f < G::kPanels; ++f) {
    PATCH_UNROLL
    for (int m = 0; m < G::kWarpRows; ++m) {
      PATCH_UNROLL
      for (int n = 0; n < G::kWarpTokens; ++n) {
        PATCH_UNROLL
        for (int j = 0; j < 4; ++j) sums[f][m][n][j] = 0.f;
      }
    }
  }
}

// Slots in shared memory, filled up to kStages - 1 slabs ahead of the one that is multiplied.  `request`
// issues the copies of the next slab into a slot, or none after the last slab.
template <class G>
class Ring {
 public:
  template <class Request>
  PATCH_DEVICE Ring(uint8_t* shared, const Request& request) : shared_(shared) {
    PATCH_UNROLL
    for (int s = 0; s < G::kStages - 1; ++s) {
      request(shared_ + s * G::kStageBytes);
      commit_copies();
    }
  }
  // Returns the slot of the next slab.  All threads call this, and may read the slot until the next turn.
  template <class Request>
  PATCH_DEVICE const uint8_t* turn(const Request& request) {
    wait_copies<G::kStages - 2>();
    sync_block();  // all copies of this slab are done, and no thread reads the slot that is filled next
    request(shared_ + write_ * G::kStageBytes);
    commit_copies();  // also when empty: wait_copies counts groups
    const uint8_t* slot = shared_ + read_ * G::kStageBytes;
    read_ = read_ + 1 == G::kStages ? 0 : read_ + 1;
    write_ = write_ + 1 == G::kStages ? 0 : write_ + 1;
    return slot;
  }

 private:
  uint8_t* shared_;
  int read_ = 0, write_ = G::kStages - 1;
};

}  // namespace patch
