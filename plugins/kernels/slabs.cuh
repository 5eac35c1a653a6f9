// Slabs of the hybrid tile GEMM  Y[M, N] = X[M, K] W[N, K]^T + bias, and the index of their places.  The GEMM
// is computed as Y^T = W X^T, so that W is operand A, the only operand of mma.sp that can be sparse.
//
// W is stored as slabs of one panel (64 or 128 rows) x 64 columns, in the order of mma's registers:
//
//            K ->  slab 0   slab 1   slab 2   slab 3       in memory
//   panel 0      | dense  |  2:4   | dense  |  2:4   |     `dense`:  dense slabs of panel 0, of panel 1, ...
//   panel 1      |  2:4   |  2:4   | dense  | dense  |     `sparse`: 2:4 slabs of panel 0, of panel 1, ...
//
// The bytes of a slab are those of its kind (decode_dense16.cuh, decode_sparse24.cuh).  A lane's A fragment
// of mma has
//
//   one fragment (lane = 4g + t)       columns 2t, 2t+1   2t+8, 2t+9
//                            row g          0, 1             4, 5
//                            row g + 8      2, 3             6, 7      <- position among the lane's 8 values
//
// A block multiplies a panel by `kTokens` rows of X, dense slabs first and then 2:4 slabs, into the same fp32
// accumulators:
//
//      ring of kStages slots in shared memory          [ W slab | X tile ] [ W slab | X tile ] ...
#pragma once
#include "kernels/arguments.h"
#include "kernels/place.cuh"

namespace patch {

// Slabs of one panel of Y: first `dense` dense slabs, then `sparse` 2:4 slabs.  If gated, these are the slabs
// of two packed panels, and the gate's come first among those of each kind.
template <class G>
struct Panel {
  int number, dense, sparse, first_dense, first_sparse;
  int gate_dense, gate_sparse;  // the gate's slabs, if gated

  PATCH_DEVICE Panel(const LinearArguments& a, int panel) : number(panel) {
    const int32_t* dense_ptr = a.index;
    const int32_t* sparse_ptr = dense_ptr + a.panels * G::kPanels + 1;
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
  }
  // Row of slab i in the tensors of its kind.
  PATCH_DEVICE int row(int i) const { return i + (i < dense ? first_dense : first_sparse - dense); }
  // K / 64 of slab i; any number, if the index lies (see SlabCopies).  W has slabs, though maybe not this
  // one: its column is not used.
  PATCH_DEVICE int column(const LinearArguments& a, int i) const {
    const int columns = 2 * (a.panels * G::kPanels + 1), last = a.dense_slabs + a.sparse_slabs - 1;
    const int slab = row(i) + (i < dense ? 0 : a.dense_slabs);
    return load_index(a.index + columns + (slab < last ? slab : last));
  }
};

}  // namespace patch
