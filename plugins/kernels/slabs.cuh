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
#include "kernels/parts.h"
#include "kernels/place.cuh"

namespace patch {

// Slabs of one panel of Y: first `dense` dense slabs, then `sparse` 2:4 slabs.  If gated, these are the slabs
// of two packed panels, and the gate's come first among those of each kind.
template <class G>
struct Panel {
  int number, dense, sparse, first_dense, first_sparse;
  int gate_dense, gate_sparse;  // the gate's slabs, if gated

  // NOLINTBEGIN(cppcoreguidelines-pro-type-member-init): `read` does it.
  PATCH_DEVICE Panel(const LinearArguments& a, int panel) : number(panel) { read_memory(a); }
  // The pointers of most streams lie in their parameters (parts.h).
  PATCH_DEVICE Panel(const StreamArguments& s, int panel) : number(panel) {
    const PartTable& t = s.table;
    if (t.pointers < 0)
      read_memory(s.linear);
    else
      read(s.linear, [&](int i) { return static_cast<int32_t>(t.words[t.pointers + i]); });
  }
  // NOLINTEND(cppcoreguidelines-pro-type-member-init)
  PATCH_DEVICE int slabs() const { return dense + sparse; }
  // Row of slab i in the tensors of its kind.
  PATCH_DEVICE int row(int i) const { return i + (i < dense ? first_dense : first_sparse - dense); }
  // K / 64 of slab i.  W has slabs, though maybe not this one: its column is not used.
  PATCH_DEVICE int column(const LinearArguments& a, int i) const {
    const int columns = 2 * (a.panels * G::kPanels + 1), last = a.dense_slabs + a.sparse_slabs - 1;
    const int slab = row(i) + (i < dense ? 0 : a.dense_slabs);
    return load_index(a.index + columns + (slab < last ? slab : last));
  }

 private:
  PATCH_DEVICE void read_memory(const LinearArguments& a) {
    read(a, [&](int i) { return load_index(a.index + i); });
  }
  // pointer(i): the index's.
  template <class Pointer>
  PATCH_DEVICE void read(const LinearArguments& a, const Pointer& pointer) {
    const int packed = number * G::kPanels, other = a.panels * G::kPanels + 1 + packed;
    first_dense = pointer(packed), dense = pointer(packed + G::kPanels) - first_dense;
    first_sparse = pointer(other), sparse = pointer(other + G::kPanels) - first_sparse;
    if constexpr (G::kGated) {
      gate_dense = pointer(packed + 1) - first_dense;
      gate_sparse = pointer(other + 1) - first_sparse;
    }
  }
};

}  // namespace patch
