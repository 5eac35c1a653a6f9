// Slabs of the hybrid tile GEMM  Y[M, N] = X[M, K] W[N, K]^T + bias, and the index of their places.  The GEMM
// is computed as Y^T = W X^T, so that W is operand A, the only operand of mma.sp that can be sparse.
//
// W is stored as slabs of one panel (64 or 128 rows) x 64 columns, in the order of mma's registers:
//
//            K ->  slab 0   slab 1   slab 2   slab 3       in memory
//   panel 0      | dense  |  2:4   | dense  |  8:16  |     slabs[0]: dense slabs of panel 0, of panel 1, ...
//   panel 1      |  2:4   |  2:4   | dense  | dense  |     slabs[1]: 2:4 slabs of panel 0, of panel 1, ...
//
// The bytes of a slab are those of its kind (decode_*.cuh).  A lane's A fragment of mma has
//
//   one fragment (lane = 4g + t)       columns 2t, 2t+1   2t+8, 2t+9
//                            row g          0, 1             4, 5
//                            row g + 8      2, 3             6, 7      <- position among the lane's 8 values
//
// A block multiplies a panel by `kTokens` rows of X, first its dense slabs, then those of the next kind, into
// the same fp32 accumulators:
//
//      ring of kStages slots in shared memory          [ W slab | X tile ] [ W slab | X tile ] ...
#pragma once
#include "kernels/parts.h"
#include "kernels/place.cuh"

namespace patch {

// A pointer of the index.  Those of most streams lie in their parameters (parts.h).
PATCH_DEVICE int32_t pointer_at(const LinearArguments& a, int i) { return load_index(a.index + i); }
PATCH_DEVICE int32_t pointer_at(const StreamArguments& s, int i) {
  const PartTable& t = s.table;
  return t.pointers < 0 ? load_index(s.linear.index + i) : static_cast<int32_t>(t.words[t.pointers + i]);
}
PATCH_DEVICE int panels_of(const LinearArguments& a) { return a.panels; }
PATCH_DEVICE int panels_of(const StreamArguments& s) { return s.linear.panels; }

// Slabs of one panel, kind by kind.
template <class G>
struct Panel {
  int number;
  int ends[G::kKinds];   // slabs of the panel up to the last one of each kind
  int first[G::kKinds];  // row of its first slab in the tensors of the kind

  // NOLINTBEGIN(cppcoreguidelines-pro-type-member-init): the loop does it.
  template <class Arguments>
  PATCH_DEVICE Panel(const Arguments& s, int panel) : number(panel) {
    const int pointers = panels_of(s) + 1;
    int count = 0;
    PATCH_UNROLL
    for (int kind = 0; kind < G::kKinds; ++kind) {
      const int own = kind * pointers + panel;
      first[kind] = pointer_at(s, own);
      count += pointer_at(s, own + 1) - first[kind];
      ends[kind] = count;
    }
  }
  // NOLINTEND(cppcoreguidelines-pro-type-member-init)
  PATCH_DEVICE int slabs() const { return ends[G::kKinds - 1]; }
};

// Columns (K / 64) of the slabs of a kind.
template <class G>
PATCH_DEVICE const int32_t* columns_of(const LinearArguments& a, int kind) {
  return a.index + G::kKinds * (a.panels + 1) + a.slabs[kind].before;
}

// Walks over the slabs of a stream's block: tile by tile, and in a tile kind by kind.  Slabs of one kind that
// follow each other are a run.
template <class G>
class SlabWalk {
 public:
  // The slabs of `tiles` tiles, from one of the first tile on; of the last tile the first `stop`, or all if
  // 0.
  PATCH_DEVICE SlabWalk(const StreamArguments& s, int panel, int token_tile, int tiles, int slab, int stop)
      : s_(s), panel_(panel), token_tile_(token_tile), tiles_(tiles), stop_(stop) {
    budget_ = tile_budget() - slab;
    find(slab);
  }
  // Returns true if there is a current slab.
  PATCH_DEVICE bool more() const { return left_ > 0; }
  // Goes to the next slab.  Returns true if it is not the next one of a run, which may be because there is
  // none.
  PATCH_DEVICE bool next() {
    if (--left_ > 0) return false;
    ++kind_;
    find(0);
    return true;
  }
  PATCH_DEVICE int first_token() const { return token_tile_ * G::kTokens; }
  // Returns true if the slab does not lie in the first tile.
  PATCH_DEVICE bool moved() const { return moved_; }
  // Kind and row of the first slab of a run.
  PATCH_DEVICE int kind() const { return kind_; }
  PATCH_DEVICE int row() const { return row_; }
  // Slabs of the run from the current one on.
  PATCH_DEVICE int left() const { return left_; }

 private:
  PATCH_DEVICE int tile_budget() const { return tiles_ == 1 && stop_ > 0 ? stop_ : INT32_MAX; }

  // Finds the first slab after `skip` of them, from kind_ on.
  PATCH_DEVICE void find(int skip) {
    const LinearArguments& a = s_.linear;
    const int pointers = a.panels + 1;
    left_ = 0;
    while (tiles_ > 0) {
      if (kind_ == G::kKinds || budget_ <= 0) {
        --tiles_, moved_ = true;
        if (++token_tile_ == a.token_tiles(G::kTokens)) token_tile_ = 0, ++panel_;
        kind_ = 0, budget_ = tile_budget();
        continue;
      }
      const int own = kind_ * pointers + panel_, first = pointer_at(s_, own);
      const int count = pointer_at(s_, own + 1) - first;
      if (skip < count) {
        row_ = first + skip;
        left_ = count - skip < budget_ ? count - skip : budget_;
        budget_ -= left_;
        return;
      }
      skip -= count, ++kind_;
    }
  }

  const StreamArguments& s_;
  int panel_, token_tile_, tiles_, stop_;
  int budget_;  // slabs of the tile that are left after the run
  int kind_ = 0, row_ = 0, left_ = 0;
  bool moved_ = false;
};

}  // namespace patch
