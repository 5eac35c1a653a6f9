// The kinds of slabs: which decoder each of a weight's streams of slabs has.  A new kind is a file like
// decode_dense16.cuh and its name here; the loop (multiply.cuh) and the copies (copies.cuh) take what they
// need from the decoder.
#pragma once
#include "kernels/decode_dense16.cuh"
#include "kernels/decode_sparse24.cuh"

namespace patch {

template <class T, class G>
struct Streams {
  using Dense = Dense16<T, G>;    // `dense` of LinearArguments
  using Sparse = Sparse24<T, G>;  // `sparse`, and `meta` for the extra bytes
};

}  // namespace patch
