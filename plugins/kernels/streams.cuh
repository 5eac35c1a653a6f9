// The decoder of each kind of slab.  A new kind is a row of the table of kinds (kinds.h), a file like
// decode_dense16.cuh, and its name here; the loop (multiply.cuh) and the copies (copies.cuh) take what they
// need from the decoder.
#pragma once
#include "kernels/decode_bytes.cuh"
#include "kernels/decode_dense16.cuh"
#include "kernels/decode_integers.cuh"
#include "kernels/decode_integers_of_sixteen.cuh"
#include "kernels/decode_of_sixteen.cuh"
#include "kernels/decode_sparse24.cuh"

namespace patch {

// Which decoders a type of weights has.
enum class Family { kSixteenBits, kIntegers, kBytes };
constexpr Family family_of(Weights weights) {
  if (weights == Weights::kW8A8) return Family::kBytes;
  return is_quantised(weights) ? Family::kIntegers : Family::kSixteenBits;
}

template <class T, class G, int Kind, Family F>
struct DecoderOf;
template <class T, class G, int Kind>
struct DecoderOf<T, G, Kind, Family::kSixteenBits> {
  using Type = OfSixteen<T, G, kKinds[Kind].values>;
};
template <class T, class G>
struct DecoderOf<T, G, 0, Family::kSixteenBits> {
  using Type = Dense16<T, G>;
};
template <class T, class G>
struct DecoderOf<T, G, 1, Family::kSixteenBits> {
  using Type = Sparse24<T, G>;
};
template <class T, class G, int Kind>
struct DecoderOf<T, G, Kind, Family::kIntegers> {
  using Type = IntegersOfSixteen<T, G, kKinds[Kind].values>;
};
template <class T, class G>
struct DecoderOf<T, G, 0, Family::kIntegers> {
  using Type = Integers<T, G, false>;
};
template <class T, class G>
struct DecoderOf<T, G, 1, Family::kIntegers> {
  using Type = Integers<T, G, true>;
};
template <class T, class G, int Kind>
struct DecoderOf<T, G, Kind, Family::kBytes> {
  using Type = Bytes<G, Kind>;
};
template <class T, class G, int Kind>
using Decoder = typename DecoderOf<T, G, Kind, family_of(G::kWeights)>::Type;

}  // namespace patch
