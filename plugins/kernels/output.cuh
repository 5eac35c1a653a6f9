// Writes the values of a tile to Y.
#pragma once
#include "kernels/epilogue.cuh"

namespace patch {

// Features of Y that a panel gives.
template <class G>
PATCH_DEVICE int features_of(const LinearArguments& a) {
  return G::kPanelRows >> a.gated;
}

// Writes from registers, two values at a time, because the ring still uses shared memory.
template <class T, class G>
PATCH_DEVICE void write_from_registers(Sums<G>& sums, const LinearArguments& a, int panel, int first_token,
                                       const Place<G>& at) {
  finish<T, G>(sums, a, panel, first_token, at, [&](int feature, int token, uint32_t pair) {
    const int64_t out = static_cast<int64_t>(panel) * features_of<G>(a) + feature;
    if (first_token + token >= a.tokens || out >= a.out_features) return;
    uint16_t* to = a.y + static_cast<int64_t>(first_token + token) * a.out_features + out;
    if (a.y_vector >= 2) return store_pair(to, pair);  // out_features is even: the pair lies inside the row
    store_value(to, static_cast<uint16_t>(pair));
    if (out + 1 < a.out_features) store_value(to + 1, static_cast<uint16_t>(pair >> 16));
  });
}

template <class G, int Values>
PATCH_DEVICE void store_rows(const LinearArguments& a, int panel, int first_token, const uint16_t* tile,
                             int thread) {
  constexpr int kVectors = G::kPanelRows / Values;
  PATCH_UNROLL_FOUR
  for (int j = 0; j < G::kTokens * kVectors / G::kThreads; ++j) {
    const int vector = j * G::kThreads + thread;
    const int row = vector / kVectors, feature = vector % kVectors * Values;
    const int token = first_token + row;
    const int64_t out = static_cast<int64_t>(panel) * features_of<G>(a) + feature;
    // `Values` divides out_features, so a vector never crosses the end of a row.
    if (token < a.tokens && feature < features_of<G>(a) && out < a.out_features)
      store_output<2 * Values>(a.y + static_cast<int64_t>(token) * a.out_features + out,
                               tile + row * G::kOutputStride + feature);
  }
}

// Writes through shared memory, in whole vectors of Y.  No thread may use shared memory for anything else.
template <class T, class G>
PATCH_DEVICE void write_through_shared(Sums<G>& sums, const LinearArguments& a, int panel, int first_token,
                                       uint8_t* shared, const Place<G>& at) {
  auto* tile = reinterpret_cast<uint16_t*>(shared);
  finish<T, G>(sums, a, panel, first_token, at, [&](int feature, int token, uint32_t pair) {
    store_shared_word(tile + token * G::kOutputStride + feature, pair);
  });
  sync_block();
  switch (a.y_vector) {
    case 8:
      return store_rows<G, 8>(a, panel, first_token, tile, at.thread);
    case 4:
      return store_rows<G, 4>(a, panel, first_token, tile, at.thread);
    case 2:
      return store_rows<G, 2>(a, panel, first_token, tile, at.thread);
    default:
      return store_rows<G, 1>(a, panel, first_token, tile, at.thread);
  }
}

}  // namespace patch
