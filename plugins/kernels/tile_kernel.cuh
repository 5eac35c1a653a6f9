// The kernel for many tokens.  A block computes one tile of Y, a panel times `kTokens` rows of X, over all of
// K.  The hardware starts a new block when one ends, which balances panels of different cost.
#pragma once
#include "kernels/multiply.cuh"
#include "kernels/output.cuh"

namespace patch {

// Panel and tokens of a block.  Groups of kTilesPerGroup token tiles go through all panels together, so that
// blocks which run at the same time share X and W in L2.
struct Assignment {
  int panel, token_tile;
  PATCH_DEVICE Assignment(const LinearArguments& a, int tokens_per_tile, int64_t block) {
    const int tiles = (a.tokens - 1) / tokens_per_tile + 1;
    const int64_t per_group = static_cast<int64_t>(kTilesPerGroup) * a.panels;
    const int first = static_cast<int>(block / per_group) * kTilesPerGroup;
    const int inside = static_cast<int>(block % per_group);
    const int height = tiles - first < kTilesPerGroup ? tiles - first : kTilesPerGroup;
    token_tile = first + inside % height;
    panel = inside / height;
  }
};

// Grid: x = panels * token tiles.
template <class T, int C>
PATCH_KERNEL_OF(Geometry<C>::kThreads, Geometry<C>::kRegisterBlocks)
patch_tiles(const LinearArguments a) {
  using G = Geometry<C>;
  PATCH_SHARED(shared);
  const Place<G> at;
  const Assignment block(a, G::kTokens, block_index());
  const Panel<G> panel(a, block.panel);
  const int first_token = block.token_tile * G::kTokens;

  PanelSupply<T, G> supply(a, panel, first_token, at.thread);
  wait_for_earlier_launches();
  Ring<G, PanelSupply<T, G>> ring(shared, supply, SlabCopies<T, G, NoPolicy>::place(at.thread));
  Sums<G> sums;
  clear<G>(sums);
  multiply_slabs<T, G>(sums, panel, 0, panel.slabs(), ring, at);

  ring.finish();
  sync_block();  // the output tile overwrites the ring
  write_through_shared<T, G>(sums, a, block.panel, first_token, shared, at);
}

}  // namespace patch
