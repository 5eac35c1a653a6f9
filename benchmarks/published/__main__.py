"""Compares predicted times of products with times that others published.

    python -m benchmarks.published [FILE.csv …] [--json | --fit | --errors | --page docs/explanation/predictions.md]

Without files it takes the files beside this program. The README there describes the columns. It prints predicted over
measured for dense and 2:4 products and for the speed-up by 2:4: the number of products, the median, p10 and p90. With the
files beside this program it takes every second shape, which the table of cards was not fitted to.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from benchmarks.page_part import renewed
from benchmarks.published.whole_models import (
    encoders_table,
    fit_other_kernel,
    gains_of_whole_models,
    whole_models_table,
)
from masklearn.quant.table import FLOAT16, W8A8, WeightType
from patch_compile import PatchCompileError
from patch_compile.hardware.cards import CARDS, Origin, Share, SheetCard, card_named
from patch_compile.planning.roofline.assumptions import ASSUMED, Assumptions
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
_LARGE_SIDE = 2048  # from here on the edges of a product count for little
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

    def predicted(self, *, sparse: bool, **changes: Any) -> float:
        """Returns the predicted microseconds under changed assumptions."""
        assume = replace(ASSUMED, **changes)
        return LAUNCH + self.library_time(assume, sparse=sparse)

    def library_time(self, assume: Assumptions, *, sparse: bool) -> float:
        """Returns the predicted microseconds in a CUDA graph."""
        return library_time(self.card, self.shape, self.tokens, assume, sparse=sparse, weights=self.weights)[
            0
        ]

    @property
    def weights(self) -> WeightType:
        return _TYPES[self.dtype]

    @property
    def in_l2(self) -> bool:
        """Returns True if its weights may stay in L2 between repeats."""
        size = self.weights.bits // 8 * self.shape[0] * self.shape[1]
        return self.tokens <= _L2_TOKENS and size <= self.card.l2 << 20


def read(path: Path, skipped: dict[str, int]) -> Iterator[Product]:
    """Yield the products of a file. It counts in `skipped` rows of cards and types without predictions.

    Raises PatchCompileError, with file and line, for a row that is not valid.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        launched = "linear" in (rows.fieldnames or ())
        needed = {
            "card",
            "M",
            "N",
            "K",
            *(("min_us",) if launched else ("dtype", "dense_us", "sparse_2_4_us")),
        }
        if missing := sorted(needed - set(rows.fieldnames or ())):
            raise _invalid(path, 1, f"It lacks the columns {', '.join(missing)}.")
        for row in rows:
            try:
                found = _product(row, launched, skipped)
            except (TypeError, ValueError) as error:
                raise _invalid(path, rows.line_num, str(error)) from None
            if found is not None:
                yield found


def _invalid(path: Path, line: int, why: str) -> PatchCompileError:
    return PatchCompileError(f"{path}:{line} is no row of times", why, "See benchmarks/published/README.md.")


def _product(row: Mapping[str, Any], launched: bool, skipped: dict[str, int]) -> Product | None:
    if None in row or None in row.values():
        raise ValueError("It has more or fewer cells than the first line.")
    tokens, n, k = (_positive(row, name, int) for name in "MNK")
    dense = _positive(row, "min_us" if launched else "dense_us", float)
    sparse = None if launched else _positive(row, "sparse_2_4_us", float)
    if tokens is None or n is None or k is None:
        raise ValueError("M, N and K are needed.")
    dtype = "fp16" if launched else row["dtype"]
    card = card_named((_SXM if launched else _PCIE).get(row["card"], row["card"]))
    known = dtype in _TYPES and (row["card"], dtype) not in _UNRELIABLE
    if not isinstance(card, SheetCard) or not known:
        name = row["card"] if not isinstance(card, SheetCard) else f"{row['card']} {dtype}"
        skipped[name] = skipped.get(name, 0) + 1
        return None
    return Product(card, dtype, tokens, (n, k), dense, sparse)


def _positive(row: Mapping[str, Any], name: str, kind: type[Any]) -> Any:
    if not row[name]:
        return None
    value = kind(row[name])
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} is {row[name]}, not a positive number.")
    return value


def compare(products: Iterable[Product], **changes: Any) -> dict[tuple[str, str, str, str], list[float]]:
    """Returns predicted over measured by (card, type, range of tokens, "dense", "2:4" or "speedup")."""
    found: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    for one in products:
        if one.in_l2:
            continue
        tokens = next(name for most, name in _RANGES if most is None or one.tokens <= most)
        ratios = {
            what: one.predicted(sparse=sparse, **changes) / measured
            for what, sparse, measured in (("dense", False, one.dense), ("2:4", True, one.sparse))
            if measured
        }
        if len(ratios) == 2:
            ratios["speedup"] = ratios["dense"] / ratios["2:4"]
        for what, ratio in ratios.items():
            found[one.card.name, one.dtype, tokens, what].append(ratio)
    return found


def summarise(found: Mapping[tuple[str, str, str, str], Sequence[float]]) -> list[dict[str, Any]]:
    """Returns a row for each group: number, median, p10 and p90."""
    names = ("card", "dtype", "tokens", "what")
    rows = []
    for key, ratios in found.items():
        p10, median, p90 = (round(float(value), 3) for value in np.percentile(ratios, (10, 50, 90)))
        rows.append(
            dict(zip(names, key, strict=True))
            | {"number": len(ratios), "median": median, "p10": p10, "p90": p90}
        )
    return rows


def fitted(products: Sequence[Product]) -> tuple[list[Product], list[Product]]:
    """Returns the products of every second shape of each card and type, which fits take, and the others."""
    shapes: dict[tuple[str, str], set[tuple[int, int]]] = defaultdict(set)
    for one in products:
        shapes[one.card.name, one.dtype].add(one.shape)
    order = {key: sorted(found) for key, found in shapes.items()}
    own = [order[one.card.name, one.dtype].index(one.shape) % 2 == 0 for one in products]
    pairs = list(zip(products, own, strict=True))
    return [one for one, is_own in pairs if is_own], [one for one, is_own in pairs if not is_own]


def fit(products: Sequence[Product]) -> dict[str, Any]:
    """Fit the shares of the cards, and what all cards share: bandwidth, and a launch.

    Least squares of logarithms, where outliers count linearly. int8 products have shares of their own, and take the rest
    from the table.
    """
    of_16_bits, of_int8 = ([one for one in products if one.weights.input_bits == bits] for bits in (16, 8))
    values, shares = _fit(of_16_bits, [ASSUMED.bandwidth, LAUNCH])
    _, int8_shares = _fit(of_int8, [])
    named = [(name, "", pair) for name, pair in shares.items()]
    named += [(name, "int8_", pair) for name, pair in int8_shares.items()]
    found: dict[str, Any] = dict(zip(("bandwidth", "launch"), values, strict=True))
    for name, prefix, (tensor, sparse) in named:
        found[name] = found.get(name, {}) | {f"{prefix}tensor": tensor, f"{prefix}sparse": sparse}
    return found


def _fit(
    products: Sequence[Product], shared: Sequence[float]
) -> tuple[list[float], dict[str, tuple[float, float]]]:
    """Returns bandwidth and launch, if `shared` has their first values, and the shares of each card. All of one type."""
    cards = sorted({one.card.name for one in products})
    rows = [
        (one, sparse, measured)
        for one in products
        for sparse, measured in ((False, one.dense), (True, one.sparse))
        if measured and not one.in_l2
    ]

    def misses(values: Any) -> Any:
        bandwidth, launch = values[: len(shared)] if shared else (ASSUMED.bandwidth, LAUNCH)
        assume = replace(ASSUMED, bandwidth=float(bandwidth))
        pairs = dict(zip(cards, values[len(shared) :].reshape(-1, 2), strict=True))
        logs = []
        for one, sparse, measured in rows:
            product = replace(one, card=_with_shares(one, pairs[one.card.name]))
            logs.append(np.log((launch + product.library_time(assume, sparse=sparse)) / measured))
        return np.array(logs)

    start = [*shared, *(share for _ in cards for share in (0.8, 0.9))]
    bounds = (
        [0.6, 0.0][: len(shared)] + [0.3] * (2 * len(cards)),
        [1.0, 10.0][: len(shared)] + [1.2] * (2 * len(cards)),
    )
    found = least_squares(misses, start, bounds=bounds, loss="soft_l1", f_scale=0.1, diff_step=1e-3).x
    values = np.round(found, 3).tolist()
    shares = zip(values[len(shared) :: 2], values[len(shared) + 1 :: 2], strict=True)
    return values[: len(shared)], dict(zip(cards, shares, strict=True))


def _with_shares(product: Product, pair: Iterable[float]) -> SheetCard:
    """Returns the card of a product with other shares of the rate of its type."""
    tensor, sparse = (Share(float(value), Origin.FIT) for value in pair)
    if product.weights is W8A8:
        return replace(product.card, int8_tensor=tensor, int8_sparse=sparse)
    return replace(product.card, tensor=tensor, sparse=sparse)


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
    twin = next(
        one for one in CARDS if isinstance(one, SheetCard) and one.name == _ASSUMED[card.name == "RTX 4090"]
    )
    return replace(
        card,
        tensor=twin.tensor,
        sparse=twin.sparse,
        int8_tensor=twin.int8_tensor,
        int8_sparse=twin.int8_sparse,
    )


def page(products: Sequence[Product]) -> str:
    """Returns a table of products of one size of inputs in Markdown, with fp16 and bf16 together."""
    both = (("", products), (", unseen", [replace(one, card=unseen(one.card)) for one in products]))
    cells: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for suffix, some in both:
        for (card, _, tokens, what), ratios in compare(some).items():
            cells[card, tokens][what + suffix] += ratios
    order = [name for _, name in _RANGES]
    heads = ("dense", "2:4", "speedup", "dense, unseen", "speedup, unseen")
    lines = ["| card | tokens | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 2) + "|"]
    for (card, tokens), found in sorted(
        cells.items(), key=lambda cell: (cell[0][0], order.index(cell[0][1]))
    ):
        lines.append(f"| {card} | {tokens} | " + " | ".join(_cell(found[name]) for name in heads) + " |")
    return "\n".join(lines)


def int8_page(products: Sequence[Product]) -> str:
    """Returns a table of how many times as fast as dense 16-bit products int8 products are, measured and predicted.

    Medians over the products that were measured in both types, fp16 or else bf16.
    """
    dense = dense_16_bits(products)
    cells: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in products:
        base = dense.get((one.card.name, one.tokens, one.shape))
        if one.weights is not W8A8 or base is None or base.in_l2:
            continue
        tokens = next(name for most, name in _RANGES if most is None or one.tokens <= most)
        for sparse, measured in ((False, one.dense), (True, one.sparse)):
            if measured and base.dense:
                found = base.predicted(sparse=False) / one.predicted(sparse=sparse)
                cells[one.card.name, tokens][f"measured {sparse}"].append(base.dense / measured)
                cells[one.card.name, tokens][f"predicted {sparse}"].append(found)
    heads = ("dense int8, measured", "predicted", "2:4 int8, measured", "predicted")
    lines = ["| card | tokens | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 2) + "|"]
    order = [name for _, name in _RANGES]
    for (card, tokens), found in sorted(
        cells.items(), key=lambda cell: (cell[0][0], order.index(cell[0][1]))
    ):
        names = [f"{what} {sparse}" for sparse in (False, True) for what in ("measured", "predicted")]
        medians = (f"{np.median(found[name]):.2f}" if found[name] else "–" for name in names)
        lines.append(f"| {card} | {tokens} | " + " | ".join(medians) + " |")
    return "\n".join(lines)


def six_eight_page() -> str:
    """Returns a table of how much faster cuSPARSELt's products are than cuBLASLt's dense ones, with all of W 2:4 or 6:8.

    Medians over the products of slidesparse.csv whose sides are all 2,048 or more.
    """
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (HERE / "slidesparse.csv").open() as file:
        for row in csv.DictReader(file):
            if min(int(row[side]) for side in "MNK") >= _LARGE_SIDE:
                for kind in ("sparse_2_4_us", "sparse_6_8_us"):
                    if row[kind]:
                        found[row["card"], row["dtype"]][kind].append(
                            float(row["dense_us"]) / float(row[kind])
                        )
    lines = ["| card | type | 2:4 | 6:8 |", "| --- " * 4 + "|"]
    for (card, dtype), gains_of in found.items():
        if dtype in ("fp16", "int8"):
            lines.append(f"| {card} | {dtype} | " + " | ".join(map(_median, gains_of.values())) + " |")
    return "\n".join(lines)


def _median(ratios: Sequence[float]) -> str:
    return f"{np.median(ratios):.2f}"


def _cell(ratios: Sequence[float]) -> str:
    if not ratios:
        return "–"
    p10, median, p90 = np.percentile(ratios, (10, 50, 90))
    return f"{median:.2f} ({p10:.2f}…{p90:.2f}; {len(ratios)})"


def draw(products: Iterable[Product], path: Path) -> None:
    """Draw predicted against measured microseconds, dense and 2:4, with an axis of logarithms for each."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "predictions"
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for one in products:
        for sparse, measured in ((False, one.dense), (True, one.sparse)):
            if measured and not one.in_l2:
                points[one.card.name].append((measured, one.predicted(sparse=sparse)))
    figure, axes = plt.subplots(figsize=(6.4, 6))
    for marker, (name, found) in zip("osD^vP", sorted(points.items()), strict=False):
        xs, ys = zip(*found, strict=True)
        axes.scatter(xs, ys, s=14, marker=marker, alpha=0.6, label=name, linewidths=0)
    ends = (8, 2e5)
    axes.plot(ends, ends, color="grey", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="measured µs", ylabel="predicted µs")
    axes.legend()
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})


def main() -> None:
    """Print the comparison or the fit."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published", description=__doc__.splitlines()[0]
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE.csv")
    parser.add_argument("--json", action="store_true", help="print a list of rows")
    parser.add_argument(
        "--fit", action="store_true", help="fit the table of cards to every second shape, and print it"
    )
    parser.add_argument(
        "--errors", action="store_true", help="print the tables of planning/roofline/errors.py"
    )
    parser.add_argument("--page", type=Path, help="renew the tables of this page, and its picture")
    given = parser.parse_args()
    skipped: dict[str, int] = {}
    try:
        products = [one for path in given.files or sorted(HERE.glob("*.csv")) for one in read(path, skipped)]
    except (PatchCompileError, OSError, UnicodeDecodeError, csv.Error) as error:
        sys.exit(str(error))
    for name, number in skipped.items():
        print(f"{name}: {number} rows skipped, nothing is predicted for it", file=sys.stderr)
    train, held_out = fitted(products)
    if given.fit:
        print(json.dumps(fit(train) | {"other_kernel": round(fit_other_kernel(), 1)}, indent=1))
        return
    if given.errors:
        print(errors(held_out), few_tokens(held_out), sep="\n")
        return
    if given.page:
        of_16_bits, of_int8 = ([p for p in held_out if p.weights.input_bits == bits] for bits in (16, 8))
        text = renewed(given.page.read_text(), "predictions", page(of_16_bits))
        text = renewed(text, "int8 predictions", page(of_int8))
        text = renewed(text, "int8 over 16 bits", int8_page(held_out))
        text = renewed(text, "whole models", whole_models_table())
        text = renewed(text, "6:8", six_eight_page())
        given.page.write_text(renewed(text, "encoders", encoders_table()))
        draw(of_16_bits, given.page.with_suffix(".svg"))
        return
    rows = summarise(compare(products if given.files else held_out))
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'card':14} {'type':5} {'tokens':9} {'what':8} {'number':>6} {'median':>7} {'p10':>6} {'p90':>6}")
    for row in rows:
        print(
            f"{row['card']:14} {row['dtype']:5} {row['tokens']:9} {row['what']:8} {row['number']:6} "
            f"{row['median']:7.2f} {row['p10']:6.2f} {row['p90']:6.2f}"
        )


if __name__ == "__main__":
    main()
