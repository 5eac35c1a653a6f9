"""How much of a predicted gain others measured: the error bar of a speed-up.

`python -m benchmarks.published --gains` computes the table, from 2:4 products by cuSPARSELt on shapes that no figure was
fitted to. A test compares both. Our own kernels have not run on any card.
"""

from __future__ import annotations

MOST_TOKENS = (256, 2048, None)  # of a product, by range; None: any number
# By bits of the inputs, by card ("" is all cards), then by range: p10 and p90 of measured over predicted gain. A gain is a
# speed-up over dense weights of the same type, less 1.
GAINS: dict[int, dict[str, dict[int | None, tuple[float, float]]]] = {
    16: {
        "": {256: (0.25, 2.43), 2048: (0.39, 1.3), None: (0.82, 1.05)},
        "A100-80 PCIe": {2048: (0.52, 2.07), None: (0.84, 1.04)},
        "B200": {2048: (0.05, 1.14), None: (0.83, 1.06)},
        "RTX 4090": {2048: (0.63, 0.98), None: (0.85, 0.97)},
    },
    8: {
        "": {2048: (0.74, 2.09), None: (0.53, 1.75)},
        "A100-80 PCIe": {None: (0.88, 1.01)},
    },
}


def gain_ends(card: str, tokens: int, input_bits: int = 16) -> tuple[float, float]:
    """Returns p10 and p90 of measured over predicted gain, for products of so many tokens on a card.

    All cards together stand for a card that nobody measured with so many tokens, and 16-bit products for int8 products that
    were not measured at all.
    """
    most = next(most for most in MOST_TOKENS if most is None or tokens <= most)
    tables = (GAINS[input_bits].get(card, {}), GAINS[input_bits][""], GAINS[16][""])
    return next(table[most] for table in tables if most in table)
