"""Compares predicted times of products with times that others published.

    python -m benchmarks.published [FILE.csv … | --errors]

Prints predicted over measured for dense and 2:4 products and for the speed-up by 2:4: the number of products, the median,
p10 and p90. The README here describes the columns of a file. Without files it takes the files here, and of them every
second shape, which the table of cards was not fitted to. `--errors` prints the tables of planning/roofline/assumptions.py.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.published.whole_models import gains_of_whole_models
from masklearn.quant.table import FLOAT16, W8A8, WeightType
from patch_compile import PatchCompileError
from patch_compile.hardware.cards import SheetCard, card_named
from patch_compile.planning.roofline.assumptions import MOST_TOKENS
from patch_compile.planning.roofline.library_product import library_time

HERE = Path(__file__).parent
_COLUMNS = ("card", "dtype", "M", "N", "K", "dense_us", "sparse_2_4_us")
_RANGES = ((16, "1-16"), (256, "32-256"), (2048, "512-2048"), (None, "4096-"))
_TYPES = {"fp16": FLOAT16, "bf16": FLOAT16, "int8": W8A8}  # that have predictions
_UNRELIABLE = {("B200", "int8")}  # cuBLASLt's dense products reach a fifth of the card's rate
_ASSUMED = ("A6000", "RTX 3090")  # cards with assumed shares, of both kinds
_L2_TOKENS = 256  # up to here, weights that stay in L2 between repeats make times that no model sees
_LEAST_PRODUCTS = 20  # of a range of tokens; with fewer, no error is told
LAUNCH = 5.0  # µs that a launch outside a CUDA graph takes beyond `Assumptions.launch`; fitted


@dataclass(frozen=True)
class Product:
    """A measured product. dense, sparse: microseconds with dense and with 2:4 weights, None if not measured."""

    card: SheetCard
    dtype: str
    tokens: int
    shape: tuple[int, int]
    dense: float | None
    sparse: float | None

    def predicted(self, *, sparse: bool) -> float:
        """Returns the predicted microseconds without a CUDA graph."""
        kind = self.weights
        return LAUNCH + library_time(self.card, self.shape, self.tokens, sparse=sparse, weights=kind)[0]

    @property
    def weights(self) -> WeightType:
        return _TYPES[self.dtype]

    @property
    def in_l2(self) -> bool:
        """Returns True if its weights may stay in L2 between repeats."""
        size = self.weights.bits // 8 * self.shape[0] * self.shape[1]
        return self.tokens <= _L2_TOKENS and size <= self.card.l2 << 20


def read(path: Path, skipped: Counter[str]) -> Iterator[Product]:
    """Yield the products of a file. It counts in `skipped` rows of cards and types without predictions.

    Raises PatchCompileError, with file and line, for a row that is not valid.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if missing := sorted({*_COLUMNS} - set(rows.fieldnames or ())):
            raise _invalid(path, 1, f"It lacks the columns {', '.join(missing)}.")
        for row in rows:
            try:
                product = _product(row)
            except (TypeError, ValueError) as error:
                raise _invalid(path, rows.line_num, str(error)) from None
            if isinstance(product, str):
                skipped[product] += 1
            else:
                yield product


def _invalid(path: Path, line: int, why: str) -> PatchCompileError:
    return PatchCompileError(f"{path}:{line} is no row of times", why, "See benchmarks/published/README.md.")


def _product(row: Mapping[str, Any]) -> Product | str:
    """Returns the product of a row, or the card or type that nothing is predicted for."""
    if None in row or None in row.values():
        raise ValueError("It has more or fewer cells than the first line.")
    tokens, n, k = (_positive(row, name, int) for name in "MNK")
    dense, sparse = (_positive(row, name, float) for name in ("dense_us", "sparse_2_4_us"))
    if tokens is None or n is None or k is None:
        raise ValueError("M, N and K are needed.")
    card, dtype = card_named(row["card"]), row["dtype"]
    if not isinstance(card, SheetCard):
        return str(row["card"])
    if dtype not in _TYPES or (row["card"], dtype) in _UNRELIABLE:
        return f"{row['card']} {dtype}"
    return Product(card, dtype, tokens, (n, k), dense, sparse)


def _positive(row: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    if not row[name]:
        return None
    value = kind(row[name])
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} is {row[name]}, not a positive number.")
    return value


class Group(NamedTuple):
    """Products of a card and a type, with numbers of tokens in a range. what: "dense", "2:4" or "speedup"."""

    card: str
    dtype: str
    tokens: str
    what: str


def compare(products: Iterable[Product]) -> dict[Group, list[float]]:
    """Returns predicted over measured of each group."""
    groups: dict[Group, list[float]] = defaultdict(list)
    for product in products:
        if product.in_l2:
            continue
        tokens = next(name for most, name in _RANGES if most is None or product.tokens <= most)
        ratios = {
            time: product.predicted(sparse=sparse) / measured
            for time, sparse, measured in (("dense", False, product.dense), ("2:4", True, product.sparse))
            if measured
        }
        if len(ratios) == 2:
            ratios["speedup"] = ratios["dense"] / ratios["2:4"]
        for time, ratio in ratios.items():
            groups[Group(product.card.name, product.dtype, tokens, time)].append(ratio)
    return groups


def fitted(products: Sequence[Product]) -> tuple[list[Product], list[Product]]:
    """Returns the products of every second shape of each card and type, to which shares were fitted, and the others."""
    shapes: dict[tuple[str, str], set[tuple[int, int]]] = defaultdict(set)
    for product in products:
        shapes[product.card.name, product.dtype].add(product.shape)
    fitted_shapes = {key: sorted(of_key)[::2] for key, of_key in shapes.items()}
    own, held_out = list[Product](), list[Product]()
    for product in products:
        is_own = product.shape in fitted_shapes[product.card.name, product.dtype]
        (own if is_own else held_out).append(product)
    return own, held_out


def errors(products: Sequence[Product]) -> dict[int, dict[int | None, tuple[float, float]]]:
    """Returns the table PRODUCTS of `patch_compile/planning/roofline/assumptions.py`."""
    return {bits: _errors(products, bits) for bits in (16, 8)}


def _errors(products: Sequence[Product], bits: int) -> dict[int | None, tuple[float, float]]:
    """Returns the part of the table for activations of so many bits."""
    bases = dense_16_bits(products)
    gains: dict[int | None, list[float]] = defaultdict(list)
    for product in products:
        base = bases.get((product.card.name, product.tokens, product.shape))
        if product.weights.input_bits != bits or product.in_l2 or base is None or base.in_l2:
            continue
        if bits == 16:
            base = replace(base, dtype=product.dtype, dense=product.dense)
        most = next(most for most in MOST_TOKENS if most is None or product.tokens <= most)
        for sparse, measured in ((False, product.dense if bits == 8 else None), (True, product.sparse)):
            if measured and base.dense:
                dense, fast = (replace(pair, card=unseen(product.card)) for pair in (base, product))
                predicted = dense.predicted(sparse=False) / fast.predicted(sparse=sparse)
                gains[most].append(base.dense / measured / predicted)
    return {
        most: (round(float(low), 2), round(float(high), 2))
        for most, ratios in gains.items()
        if len(ratios) >= _LEAST_PRODUCTS
        for low, high in [np.percentile(ratios, (10, 90))]
    }


def few_tokens(products: Sequence[Product]) -> dict[int, tuple[float, float]]:
    """Returns the table FEW_TOKENS of `patch_compile/planning/roofline/assumptions.py`."""
    few = [
        product.dense / product.predicted(sparse=False)
        for product in products
        if product.dense and product.tokens <= _RANGES[0][0] and product.weights.input_bits == 16
    ]
    slowest = float(np.percentile(few, 90))
    return {
        bits: (round(min(gains), 2), round(slowest, 2)) for bits, gains in gains_of_whole_models().items()
    }


def dense_16_bits(products: Iterable[Product]) -> dict[tuple[str, int, tuple[int, int]], Product]:
    """Returns the products whose dense time was measured in 16 bits, fp16 or else bf16, by card, tokens and shape."""
    return {
        (product.card.name, product.tokens, product.shape): product
        for product in sorted(products, key=lambda product: product.dtype)  # fp16 comes after bf16
        if product.weights is not W8A8 and product.dense
    }


def unseen(card: SheetCard) -> SheetCard:
    """Returns the card with the shares that are assumed for cards that nobody measured."""
    twin = card_named(_ASSUMED[card.name == "RTX 4090"])
    assert isinstance(twin, SheetCard)
    shares = {name: getattr(twin, name) for name in ("tensor", "sparse", "int8_tensor", "int8_sparse")}
    return replace(card, **shares)


def main() -> None:
    """Print the comparison or the errors."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published", description=__doc__.splitlines()[0]
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.csv")
    parser.add_argument(
        "--errors", action="store_true", help="print the tables of planning/roofline/assumptions.py"
    )
    arguments = parser.parse_args()
    skipped = Counter[str]()
    try:
        files = arguments.files or sorted(HERE.glob("*.csv"))
        products = [product for path in files for product in read(path, skipped)]
    except (PatchCompileError, OSError, UnicodeDecodeError, csv.Error) as error:
        sys.exit(str(error))
    for name, number in skipped.items():
        print(f"{name}: {number} rows skipped, nothing is predicted for it", file=sys.stderr)
    _, held_out = fitted(products)
    if arguments.errors:
        print(errors(held_out), few_tokens(held_out), sep="\n")
        return
    row = "{:14} {:5} {:9} {:8} {:>6} {:>7} {:>6} {:>6}"
    print(row.format(*Group._fields, "number", "median", "p10", "p90"))
    for group, ratios in compare(products if arguments.files else held_out).items():
        shares = (f"{share:.2f}" for share in np.percentile(ratios, (50, 10, 90)))
        print(row.format(*group, len(ratios), *shares))


if __name__ == "__main__":
    main()
