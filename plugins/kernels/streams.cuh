// The decoder of each kind of slab.  A new kind is a row of the table of kinds (kinds.h), a file like
// decode_dense16.cuh, and its name here; the loop (multiply.cuh) and the copies (copies.cuh) take what they
// need from the decoder.
#pragma once
#include "kernels/decode_dense16.cuh"
#include "kernels/decode_integers.cuh"
#include "kernels/decode_integers_of_sixteen.cuh"
#include "kernels/decode_of_sixteen.cuh"
#include "kernels/decode_sparse24.cuh"

namespace patch {

template <class T, class G, int Kind, bool Quantised>
struct DecoderOf {
  using Type = OfSixteen<T, G, kKinds[Kind].values>;
};
template <class T, class G>
struct DecoderOf<T, G, 0, false> {
  using Type = Dense16<T, G>;
};
template <class T, class G>
struct DecoderOf<T, G, 1, false> {
  using Type = Sparse24<T, G>;
};
template <class T, class G, int Kind>
struct DecoderOf<T, G, Kind, true> {
  using Type = IntegersOfSixteen<T, G, kKinds[Kind].values>;
};
template <class T, class G>
struct DecoderOf<T, G, 0, true> {
  using Type = Integers<T, G, false>;
};
template <class T, class G>
struct DecoderOf<T, G, 1, true> {
  using Type = Integers<T, G, true>;
};
template <class T, class G, int Kind>
using Decoder = typename DecoderOf<T, G, Kind, is_quantised(G::kWeights)>::Type;

}  // namespace patch
