"""How far published speed-ups over dense 16-bit products lie from predicted ones: the interval of a prediction.

`python -m benchmarks.published --errors` computes both tables; a test compares them. The speed-ups are of NVIDIA's
libraries, on shapes that no figure was fitted to and with the shares that are assumed for a card that nobody measured, and
of whole models. Our own kernels have not run on any card: they are assumed to be no nearer to their predictions than
the libraries are.
"""

from __future__ import annotations

from masklearn.quant.table import WeightType

MOST_TOKENS = (256, 2048, None)  # of a product, by range; None: any number
# By bits of the activations, then by range: p10 and p90 of measured over predicted speed-up over a dense 16-bit product: of
# 2:4 products, and with 8 bits of dense int8 products too.
PRODUCTS: dict[int, dict[int | None, tuple[float, float]]] = {
    16: {256: (0.73, 1.43), 2048: (0.8, 1.22), None: (0.93, 1.04)},
    8: {2048: (0.76, 1.16), None: (0.86, 1.16)},
}
# By bits of the weights: least and largest measured over predicted speed-up of whole models in decode at batch 1. The
# largest is that of dense 16-bit products of up to 16 tokens.
FEW_TOKENS = {8: (0.88, 1.03), 4: (0.76, 1.03)}
_FEW = 16  # tokens up to which the bytes of the weights decide


def speedup_errors(tokens: int, weights: WeightType) -> tuple[float, float]:
    """Returns the ends of measured over predicted speed-up over a dense 16-bit product of so many tokens.

    For few tokens, 2:4 tiles of 16 bits and w8a8 have the errors of int8 weights, as all of these read fewer bytes. 16-bit
    products stand for int8 products that were not measured.
    """
    if tokens <= _FEW or (weights.widened and tokens <= MOST_TOKENS[0]):
        return FEW_TOKENS[min(8, weights.bits)]
    most = next(most for most in MOST_TOKENS if most is None or tokens <= most)
    return PRODUCTS[weights.input_bits].get(most, PRODUCTS[16][most])
