"""Compares predicted times of products with times that others published.

    python -m benchmarks.published [FILE.csv … | --errors]

Prints predicted over measured for dense and 2:4 products and for the speed-up by 2:4: the number of products, the median,
p10 and p90. The README here describes the columns of a file. Without files it takes the files here, and of them every
second shape, which the table of cards was not fitted to. `--errors` prints the tables of planning/roofline/errors.py.
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
from patch_compile.planning.roofline.errors import MOST_TOKENS
from patch_compile.planning.roofline.library_product import library_time

HERE = Path(__file__).parent
_RANGES = ((16, "1-16"), (256, "32-256"), (2048, "512-2048"), (None, "4096-"))
_PCIE = {"A100": "A100-80 PCIe", "H100": "H100 PCIe"}
_SXM = {"A100": "A100-80", "H100": "H100"}
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
        launched = "linear" in (rows.fieldnames or ())
        times = ("min_us",) if launched else ("dtype", "dense_us", "sparse_2_4_us")
        if missing := sorted({"card", "M", "N", "K", *times} - set(rows.fieldnames or ())):
            raise _invalid(path, 1, f"It lacks the columns {', '.join(missing)}.")
        for row in rows:
            try:
                product = _product(row, launched)
            except (TypeError, ValueError) as error:
                raise _invalid(path, rows.line_num, str(error)) from None
            if isinstance(product, str):
                skipped[product] += 1
            else:
                yield product


def _invalid(path: Path, line: int, why: str) -> PatchCompileError:
    return PatchCompileError(f"{path}:{line} is no row of times", why, "See benchmarks/published/README.md.")


def _product(row: Mapping[str, Any], launched: bool) -> Product | str:
    """Returns the product of a row, or the card or type that nothing is predicted for."""
    if None in row or None in row.values():
        raise ValueError("It has more or fewer cells than the first line.")
    tokens, n, k = (_positive(row, name, int) for name in "MNK")
    dense = _positive(row, "min_us" if launched else "dense_us", float)
    sparse = None if launched else _positive(row, "sparse_2_4_us", float)
    if tokens is None or n is None or k is None:
        raise ValueError("M, N and K are needed.")
    dtype = "fp16" if launched else row["dtype"]
    card = card_named((_SXM if launched else _PCIE).get(row["card"], row["card"]))
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
    for one in products:
        if one.in_l2:
            continue
        tokens = next(name for most, name in _RANGES if most is None or one.tokens <= most)
        ratios = {
            what: one.predicted(sparse=sparse) / measured
            for what, sparse, measured in (("dense", False, one.dense), ("2:4", True, one.sparse))
            if measured
        }
        if len(ratios) == 2:
            ratios["speedup"] = ratios["dense"] / ratios["2:4"]
        for what, ratio in ratios.items():
            groups[Group(one.card.name, one.dtype, tokens, what)].append(ratio)
    return groups


def fitted(products: Sequence[Product]) -> tuple[list[Product], list[Product]]:
    """Returns the products of every second shape of each card and type, to which shares were fitted, and the others."""
    shapes: dict[tuple[str, str], set[tuple[int, int]]] = defaultdict(set)
    for one in products:
        shapes[one.card.name, one.dtype].add(one.shape)
    order = {key: sorted(found) for key, found in shapes.items()}
    own = [order[one.card.name, one.dtype].index(one.shape) % 2 == 0 for one in products]
    pairs = list(zip(products, own, strict=True))
    return [one for one, is_own in pairs if is_own], [one for one, is_own in pairs if not is_own]


def errors(products: Sequence[Product]) -> dict[int, dict[int | None, tuple[float, float]]]:
    """Returns the table PRODUCTS of `patch_compile/planning/roofline/errors.py`."""
    return {bits: _errors(products, bits) for bits in (16, 8)}


def _errors(products: Sequence[Product], bits: int) -> dict[int | None, tuple[float, float]]:
    """Returns the part of the table for activations of so many bits."""
    bases = dense_16_bits(products)
    found: dict[int | None, list[float]] = defaultdict(list)
    for one in products:
        base = bases.get((one.card.name, one.tokens, one.shape))
        if one.weights.input_bits != bits or one.in_l2 or base is None or base.in_l2:
            continue
        if bits == 16:
            base = replace(base, dtype=one.dtype, dense=one.dense)
        most = next(most for most in MOST_TOKENS if most is None or one.tokens <= most)
        for sparse, measured in ((False, one.dense if bits == 8 else None), (True, one.sparse)):
            if measured and base.dense:
                dense, other = (replace(product, card=unseen(one.card)) for product in (base, one))
                predicted = dense.predicted(sparse=False) / other.predicted(sparse=sparse)
                found[most].append(base.dense / measured / predicted)
    return {
        most: (round(float(low), 2), round(float(high), 2))
        for most, ratios in found.items()
        if len(ratios) >= _LEAST_PRODUCTS
        for low, high in [np.percentile(ratios, (10, 90))]
    }


def few_tokens(products: Sequence[Product]) -> dict[int, tuple[float, float]]:
    """Returns the table FEW_TOKENS of `patch_compile/planning/roofline/errors.py`."""
    few = [
        one.dense / one.predicted(sparse=False)
        for one in products
        if one.dense and one.tokens <= _RANGES[0][0] and one.weights.input_bits == 16
    ]
    slowest = float(np.percentile(few, 90))
    return {
        bits: (round(min(gains), 2), round(slowest, 2)) for bits, gains in gains_of_whole_models().items()
    }


def dense_16_bits(products: Iterable[Product]) -> dict[tuple[str, int, tuple[int, int]], Product]:
    """Returns the products whose dense time was measured in 16 bits, fp16 or else bf16, by card, tokens and shape."""
    return {
        (one.card.name, one.tokens, one.shape): one
        for one in sorted(products, key=lambda one: one.dtype)  # fp16 comes after bf16
        if one.weights is not W8A8 and one.dense
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
        "--errors", action="store_true", help="print the tables of planning/roofline/errors.py"
    )
    given = parser.parse_args()
    skipped = Counter[str]()
    try:
        products = [one for path in given.files or sorted(HERE.glob("*.csv")) for one in read(path, skipped)]
    except (PatchCompileError, OSError, UnicodeDecodeError, csv.Error) as error:
        sys.exit(str(error))
    for name, number in skipped.items():
        print(f"{name}: {number} rows skipped, nothing is predicted for it", file=sys.stderr)
    _, held_out = fitted(products)
    if given.errors:
        print(errors(held_out), few_tokens(held_out), sep="\n")
        return
    row = "{:14} {:5} {:9} {:8} {:>6} {:>7} {:>6} {:>6}"
    print(row.format(*Group._fields, "number", "median", "p10", "p90"))
    for group, ratios in compare(products if given.files else held_out).items():
        shares = (f"{share:.2f}" for share in np.percentile(ratios, (50, 10, 90)))
        print(row.format(*group, len(ratios), *shares))


if __name__ == "__main__":
    main()
