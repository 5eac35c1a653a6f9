// The kernel for many tokens: a block computes one tile of Y, a panel by `kTokens` rows of X, over all of K.
// The hardware deals the tiles out as blocks end, which balances panels of different cost.
#pragma once
#include "kernels/output.cuh"

namespace patch {

// Which panel and tokens a block computes: groups of token tiles walk over all panels together, so that
// blocks running at the same time share X and W in L2.
struct Assignment {
  int panel, token_tile;
  PATCH_DEVICE Assignment(const LinearArguments& a, int tokens_per_tile) {
    const int tiles = (a.tokens - 1) / tokens_per_tile + 1;
    const int64_t per_group = static_cast<int64_t>(kTilesPerGroup) * a.panels;
    const int first = static_cast<int>(block_index() / per_group) * kTilesPerGroup;
    const int inside = static_cast<int>(block_index() % per_group);
    const int height = tiles - first < kTilesPerGroup ? tiles - first : kTilesPerGroup;
    token_tile = first + inside % height;
    panel = inside / height;
  }
};

// Grid: x = panels * token tiles.
template <class T, int C>
PATCH_KERNEL(Geometry<C>::kThreads)
patch_tiles(const LinearArguments a) {
  using G = Geometry<C>;
  PATCH_SHARED(shared);
  const Place<G> at;
  const Assignment block(a, G::kTokens);
  const Panel<G> panel(a, block.panel);
  const int first_token = block.token_tile * G::kTokens;
  const int end = panel.dense + panel.sparse;

  int next = 0;                                // the slab to ask for next,
  int column = end > 0 ? panel.column(0) : 0;  // and its place in K, read one slab ahead
  const auto request = [&](uint8_t* slot) {
    if (next >= end) return;
    copy_slab<G>(a, panel, next, column, first_token, weights_read_again(), slot, at.thread);
    if (++next < end) column = panel.column(next);
  };
  Sums<G> sums;
  clear<G>(sums);
  Ring<G> ring(shared, request);
  multiply_slabs<T, G>(sums, panel, 0, end, [&] { return ring.turn(request); }, at);

  finish<T, G>(sums, a, block.panel, first_token, at);
  wait_copies<0>();
  sync_block();  // the output tile takes the ring's place
  write_through_shared<T, G>(sums[0], a, block.panel, first_token, shared, at);
}

}  // namespace patch
