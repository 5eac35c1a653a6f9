// The decoder of each kind of slab.  A new kind is a row of the table of kinds (kinds.h), a file like
// decode_dense16.cuh, and its name here; the loop (multiply.cuh) and the copies (copies.cuh) take what they
// need from the decoder.
#pragma once
#include "kernels/decode_dense16.cuh"
#include "kernels/decode_of_sixteen.cuh"
#include "kernels/decode_sparse24.cuh"

namespace patch {

template <class T, class G, int Kind>
struct DecoderOf {
  using Type = OfSixteen<T, G, kKinds[Kind].values>;
};
template <class T, class G>
struct DecoderOf<T, G, 0> {
  using Type = Dense16<T, G>;
};
template <class T, class G>
struct DecoderOf<T, G, 1> {
  using Type = Sparse24<T, G>;
};
template <class T, class G, int Kind>
using Decoder = typename DecoderOf<T, G, Kind>::Type;

}  // namespace patch
