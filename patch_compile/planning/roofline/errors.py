"""How far published speed-ups over dense 16-bit products lie from predicted ones: the interval of a prediction.

`python -m benchmarks.published --errors` computes both tables; a test compares them. The speed-ups are of NVIDIA's
libraries, on shapes that no figure was fitted to, and of whole models. Our own kernels have not run on any card: they are
assumed to be no nearer to their predictions than the libraries are.
"""

from __future__ import annotations

from masklearn.quant.table import WeightType

MOST_TOKENS = (256, 2048, None)  # of a product, by range; None: any number
# By bits of the inputs, by card ("" is all cards), then by range: p10 and p90 of measured over predicted speed-up over a
# dense 16-bit product: of 2:4 products, and with 8 bits of dense int8 products too.
PRODUCTS: dict[int, dict[str, dict[int | None, tuple[float, float]]]] = {
    16: {
        "": {256: (0.73, 1.43), 2048: (0.8, 1.22), None: (0.93, 1.04)},
        "A100-80 PCIe": {2048: (0.8, 1.21), None: (0.93, 1.01)},
        "B200": {2048: (0.75, 1.03), None: (0.93, 1.02)},
        "RTX 4090": {2048: (0.83, 1.2), None: (0.92, 1.18)},
    },
    8: {
        "": {2048: (0.76, 1.16), None: (0.86, 1.16)},
        "A100-80 PCIe": {2048: (0.88, 1.07), None: (0.94, 1.06)},
        "H100 PCIe": {2048: (0.72, 1.0), None: (0.88, 1.1)},
        "RTX 4090": {2048: (0.73, 1.08), None: (1.0, 1.06)},
    },
}
# By bits of the weights: least and largest measured over predicted speed-up of whole models in decode at batch 1. The
# largest is that of dense 16-bit products of up to 16 tokens.
FEW_TOKENS = {8: (0.88, 1.03), 4: (0.76, 1.03)}
_FEW = 16  # tokens up to which the bytes of the weights decide


def speedup_errors(card: str, tokens: int, weights: WeightType) -> tuple[float, float]:
    """Returns the ends of measured over predicted speed-up over a dense 16-bit product of so many tokens on a card.

    All cards together stand for a card that nobody measured with so many tokens. For few tokens, 2:4 tiles of 16 bits and
    w8a8 have the errors of int8 weights, as all of these read fewer bytes.
    """
    if tokens <= _FEW or (weights.widened and tokens <= MOST_TOKENS[0]):
        return FEW_TOKENS[min(8, weights.bits)]
    most = next(most for most in MOST_TOKENS if most is None or tokens <= most)
    tables = (PRODUCTS[weights.input_bits].get(card, {}), PRODUCTS[weights.input_bits][""], PRODUCTS[16][""])
    return next(table[most] for table in tables if most in table)
