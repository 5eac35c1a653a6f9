"""Draws the problems of the mosaic fuzzer, and computes their content without the code that they test.

A seed decides everything: shapes that are not multiples of tiles, panels or slabs; maps of two to four kinds of tiles, with
rows and columns of one kind, or a single tile of another; with w8a8 6:8 in some or all tiles; single linears, a gate with
its up, or q, k and v; the epilogue; values, among them zeros of both signs and subnormals; the type of the weights: of 16
bits, or integers with scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import DENSE, KINDS, PRUNED, TWO_FOUR
from masklearn.masks.linear_mask import LinearMask
from masklearn.quant.grid import Grid, spread, storable
from masklearn.quant.table import INT4, INT8, W8A8, WeightType
from patch_compile.packing.format import KERNEL_ROWS, PackedLinear, choose_panel_rows, pack_together
from patch_compile.packing.function import Epilogue
from patch_compile.packing.index import Place, gated_panels, stacked_panels
from patch_compile.packing.quantised import Quantised, pack_quantised
from patch_compile.packing.slab_kinds import stacked_rows
from tests.mosaics import IN_16_BITS, KEPT
from tests.oracles.int8_products import product
from tests.plugins.mosaic_cases import ACTIVATIONS, answer, answer_of_integers

_MAPS = ("random", "one kind", "one kind", "rows", "columns", "one other", "one other")
_TYPES = (np.float16, ml_dtypes.bfloat16)
_TWO = (DENSE, TWO_FOUR)
_OTHERS = tuple(kind for kind in IN_16_BITS if kind not in _TWO)
SIX_EIGHT = PRUNED["6:8"]
_WITH_OTHERS = 0.5  # of the problems have other kinds of tiles than dense and 2:4


@dataclass(frozen=True)
class Linear:
    """One linear of a problem.

    weight: before pruning `[N, K]`; tile: rows and columns; codes: kind of each tile, by the table of kinds; pattern: a
    number of `KEPT` for each 4 neighbours `[N, K/4]`; kept_by_masks: False for weights `[N, K]` that a group of 16 or of 8
    prunes, only in tiles of n:16 and 6:8; grid: of quantised weights; integers: quantised weights before pruning.
    """

    weight: NDArray[Any]
    tile: tuple[int, int]
    codes: NDArray[np.uint8]
    pattern: NDArray[np.uint8]
    kept_by_masks: NDArray[np.bool_]
    grid: Grid | None = None
    integers: NDArray[np.int8] | None = None

    @cached_property
    def code_of_weight(self) -> NDArray[np.uint8]:
        """The code of the kind of each weight's tile, `[N, K]`."""
        rows, columns = (np.arange(n) // step for n, step in zip(self.weight.shape, self.tile, strict=True))
        return self.codes[rows][:, columns]

    @cached_property
    def kept(self) -> NDArray[np.bool_]:
        """True for each weight that is not pruned, `[N, K]`."""
        by_pattern = KEPT[self.pattern].reshape(self.weight.shape)
        return self.kept_by_masks & (by_pattern | (self.code_of_weight != TWO_FOUR.code))

    @cached_property
    def pruned(self) -> NDArray[Any]:
        """W∘M."""
        return np.where(self.kept, self.weight, np.zeros((), self.weight.dtype))

    @cached_property
    def multiplied(self) -> NDArray[Any]:
        """W∘M as it is multiplied: int8 by the integers, and the sums by the scales, in float64 here."""
        if self.grid is None or self.integers is None or self.grid.type is not INT8:
            return self.pruned
        products = self.integers.astype(np.float64) * spread(self.grid.scales, self.integers.shape[1])
        return np.where(self.kept, products, 0.0)

    @cached_property
    def mask(self) -> LinearMask:
        """The hybrid mask, in the program's form."""
        codes: dict[str, NDArray[Any]] = {"2:4": self.pattern}
        if self.weight.shape[1] % 64 == 0:
            bits = self.kept_by_masks[:, columns_of_groups(self.weight.shape[1])]
            codes["n:16"] = (
                (bits.astype(np.uint32) << np.arange(16, dtype=np.uint32)).sum(-1).astype(np.uint16)
            )
        if self.weight.shape[1] % 8 == 0:
            eights = self.kept_by_masks.reshape(len(self.weight), -1, 8)
            codes["6:8"] = np.packbits(eights, -1, "little")[..., 0]
        return LinearMask.from_codes(self.weight.shape, self.tile, self.codes, codes)


@dataclass(frozen=True)
class Mosaic:
    """One problem. places: of each linear in the whole; weights: None for 16 bits."""

    seed: int
    fusion: str
    linears: tuple[Linear, ...]
    panel_rows: int
    places: tuple[Place, ...]
    epilogue: Epilogue
    x: NDArray[Any]
    biases: tuple[NDArray[Any], ...] | None
    residual: NDArray[Any] | None
    weights: WeightType | None = None

    @classmethod
    def of(cls, seed: int) -> Mosaic:
        """Draw the problem of a seed."""
        rng = np.random.default_rng(seed)
        fusion = str(rng.choice(["alone", "gated", "stacked"]))
        dtype = _TYPES[rng.integers(2)]
        kinds = _draw_kinds(rng)
        step = max(kind.span for kind in kinds)  # that K and the columns of tiles are multiples of
        columns = int(rng.integers(1, 5)) * step if step > 4 else 4 * int(rng.integers(1, 70))
        count = {"alone": 1, "gated": 2, "stacked": int(rng.integers(2, 4))}[fusion]
        rows = [int(n) for n in rng.integers(1, 200, count)]
        rows = [-(-rows[0] // 8) * 8] * count if fusion == "gated" else rows
        wide = [64, 64, 128, 192, 4096] if step > 4 else [4, 20, 32, 64, 128, 256, 4096]
        tile = int(rng.choice([1, 3, 32, 64, 100, 128, 4096])), int(rng.choice(wide))
        linears = tuple(_linear(rng, (n, columns), tile, kinds, dtype) for n in rows)
        panel_rows = int(rng.choice([64, 128]))
        if fusion != "gated" and rng.random() < 0.3:
            panel_rows = choose_panel_rows((rows[0], columns), tile, kinds)
        # Drawn by themselves, so that a seed's problem of 16 bits has the same numbers as its quantised one would.
        apart = np.random.default_rng([seed, 1])
        weights = _draw_weights(apart, columns, kinds)
        if weights is W8A8 and columns % 8 == 0 and (tile[1] % 8 == 0 or tile[1] >= columns):
            linears = tuple(_with_six_eight(apart, one) for one in linears)
        if weights is not None:
            linears = tuple(_rounded(apart, one, weights) for one in linears)
            panel_rows = panel_rows if weights is W8A8 else KERNEL_ROWS
        places = gated_panels(rows[0], panel_rows) if fusion == "gated" else stacked_panels(rows, panel_rows)
        bias, residual = rng.random(2) < 0.5
        activation = "" if fusion == "stacked" else str(rng.choice(list(ACTIVATIONS)))
        epilogue = Epilogue(bool(bias), activation, fusion == "gated", bool(residual) and fusion != "stacked")
        tokens = int(rng.integers(1, 40))
        x = (rng.standard_normal((tokens, columns)) * rng.choice([1.0, 2.0**-6, 2.0**-13])).astype(dtype)
        biases = tuple(rng.standard_normal(n).astype(dtype) for n in rows) if epilogue.bias else None
        added = rng.standard_normal((tokens, rows[0])).astype(dtype) if epilogue.residual else None
        return cls(seed, fusion, linears, panel_rows, tuple(places), epilogue, x, biases, added, weights)

    def __str__(self) -> str:
        shapes = "+".join(f"{n}x{self.x.shape[1]}" for n in self.rows)
        there = {int(code) for linear in self.linears for code in linear.codes.flat}
        kinds = ",".join(kind.name for kind in KINDS if kind.code in there)
        return (
            f"{self.fusion} {shapes}, tiles {'x'.join(map(str, self.linears[0].tile))} of {kinds}, panels of "
            f"{self.panel_rows}, {f'{self.weights} in ' if self.weights else ''}{self.x.dtype}, "
            f"{len(self.x)} tokens, {self.epilogue.overload or 'no epilogue'}"
        )

    @property
    def rows(self) -> list[int]:
        """Output features of each linear."""
        return [len(linear.weight) for linear in self.linears]

    @cached_property
    def packed(self) -> PackedLinear:
        """The linears, packed by the compiler."""
        if self.weights is not None:
            ones = [Quantised.of(one.weight, one.mask, one.grid) for one in self.linears if one.grid]
            whole = pack_quantised(ones, self.places, self.x.dtype, self.panel_rows)
        else:
            parts = [(linear.weight.view(np.uint16), linear.mask) for linear in self.linears]
            whole = pack_together(parts, self.panel_rows, self.places)
        rows = self.rows[0] if self.fusion == "alone" else len(whole.places()[0]) * self.panel_rows
        return replace(whole, shape=(rows, whole.shape[1]))

    @property
    def taken(self) -> list[int]:
        """Output rows that each linear takes in Y: whole panels for all but the last of a stack."""
        return stacked_rows(self.rows, self.panel_rows) if self.fusion == "stacked" else self.rows

    @property
    def out_features(self) -> int:
        """Columns of Y. Gate and up have theirs in common."""
        return sum(self.taken) if self.fusion == "stacked" else self.rows[0]

    @cached_property
    def bias(self) -> NDArray[Any] | None:
        """The biases as the node takes them: one behind the other, with zeros between the linears of a stack."""
        if self.biases is None:
            return None
        return np.concatenate([padded(b, n) for b, n in zip(self.biases, self.taken, strict=True)])

    @cached_property
    def answer(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Y `[tokens, out]` in float64, and the largest error of fp32 arithmetic. Y is 0 between the linears of a stack."""
        if self.weights is W8A8:
            return self._answer_of_integers[:2]
        weights = [linear.multiplied for linear in self.linears]
        biases = None if self.biases is None else [*self.biases]
        if self.fusion == "stacked":
            weights = [np.concatenate([padded(w, n) for w, n in zip(weights, self.taken, strict=True)])]
            biases = None if self.bias is None else [self.bias]
        return answer(self.x, weights, biases, self.epilogue.activation, self.residual, False)

    @property
    def bits(self) -> NDArray[np.uint16] | None:
        """The bits of Y, if only one answer is right."""
        return self._answer_of_integers[2] if self.weights is W8A8 else None

    @cached_property
    def _answer_of_integers(
        self,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint16] | None]:
        """The answer of w8a8, and its bits."""
        products = []
        for one in self.linears:
            assert one.grid is not None and one.integers is not None
            products.append(product(self.x, np.where(one.kept, one.integers, np.int8(0)), one.grid.scales))
        biases = None if self.biases is None else [*self.biases]
        if self.fusion == "stacked":
            products = [np.concatenate([padded(p.T, n) for p, n in zip(products, self.taken, strict=True)]).T]
            biases = None if self.bias is None else [self.bias]
        return answer_of_integers(products, biases, self.epilogue.activation, self.residual, self.x.dtype)


def padded(array: NDArray[Any], rows: int) -> NDArray[Any]:
    """Returns the array with zero rows behind it, `rows` in all."""
    return np.concatenate([array, np.zeros((rows - len(array), *array.shape[1:]), array.dtype)])


def _draw_kinds(rng: np.random.Generator) -> tuple[TileKind, ...]:
    if rng.random() >= _WITH_OTHERS:
        return _TWO
    drawn = rng.permutation(len(_OTHERS))[: rng.integers(1, 4)]
    chosen = [_OTHERS[i] for i in drawn]
    return (*(kind for kind in _TWO if rng.random() < 0.7), *chosen)


def _draw_weights(rng: np.random.Generator, columns: int, kinds: Sequence[TileKind]) -> WeightType | None:
    """Returns the type of integers, None for weights of 16 bits. int4 needs K to be a multiple of 64."""
    drawn = (None, None, INT8, W8A8, INT4)[rng.integers(5)]
    if drawn is None or (drawn.fits(columns) and all(kind.goes_with(drawn) for kind in kinds)):
        return drawn
    return INT8


def _rounded(rng: np.random.Generator, linear: Linear, weights: WeightType) -> Linear:
    """Returns the linear with its weights on a grid. In half of the problems no weight that is kept is 0."""
    wide = linear.weight.astype(np.float32)
    groups = wide.reshape(*weights.scales_shape(wide.shape), -1)
    most = np.abs(groups).max(-1) / (weights.highest * rng.choice([0.7, 1.0, 1.2]))
    # Not so small that T(q·s) is the same number for several q.
    scales = np.maximum(most * rng.uniform(0.8, 1.2, most.shape), 2.0**-14).astype(np.float32)
    scales *= rng.choice([-1, 1], scales.shape).astype(np.float32)
    scales = scales if weights.span is None else storable(scales)
    integers = np.clip(np.rint(wide / spread(scales, wide.shape[1])), weights.lowest, weights.highest)
    integers = integers.astype(np.int8)
    if rng.random() < 0.5:
        integers[integers == 0] = rng.choice([-1, 1])
    grid = Grid(weights, scales)
    return replace(linear, weight=grid.values(integers, linear.weight.dtype), grid=grid, integers=integers)


def _linear(
    rng: np.random.Generator,
    shape: tuple[int, int],
    tile: tuple[int, int],
    kinds: Sequence[TileKind],
    dtype: type,
) -> Linear:
    grid = tuple(-(-size // step) for size, step in zip(shape, tile, strict=True))
    numbers = np.array([kind.code for kind in kinds], np.uint8)
    codes = rng.choice(numbers, grid, p=rng.dirichlet(np.ones(len(kinds))))
    match str(rng.choice(_MAPS)):
        case "one kind":
            codes[:] = rng.choice(numbers)
        case "rows":
            codes[:] = codes[:, :1]
        case "columns":
            codes[:] = codes[:1]
        case "one other":
            codes[:] = rng.choice(numbers)
            codes.flat[rng.integers(codes.size)] = rng.choice(numbers)
    pattern = rng.integers(0, 6, (shape[0], shape[1] // 4)).astype(np.uint8)
    weight = (rng.standard_normal(shape) * rng.choice([0.125, 2.0**-10])).astype(dtype)
    zeros = rng.random(shape) < rng.choice([0.0, 0.05, 0.9])
    weight[zeros] = rng.choice([0.0, -0.0], int(zeros.sum())).astype(dtype)
    kept_by_masks = np.ones(shape, np.bool_)
    drawn = Linear(weight, tile, codes, pattern, kept_by_masks)
    if any(kind in _OTHERS for kind in kinds):
        kept_by_masks[:] = _draw_groups(rng, drawn.code_of_weight)
    return drawn


def _draw_groups(rng: np.random.Generator, codes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Returns a mask `[N, K]` that keeps, of each group of 16, as many random weights as the kind of its tile does.

    codes: kind of each weight, `[N, K]`; groups of other kinds keep all.
    """
    places = columns_of_groups(codes.shape[1])
    number_of = {kind.code: kind.kept for kind in _OTHERS}
    count = np.vectorize(lambda code: number_of.get(int(code), 16), otypes=[np.int64])(codes[:, places[:, 0]])
    order = rng.random((*count.shape, 16)).argsort(-1).argsort(-1)
    kept = np.ones(codes.shape, np.bool_)
    kept[:, places] = order < count[..., None]
    return kept


def _with_six_eight(rng: np.random.Generator, linear: Linear) -> Linear:
    """Returns the linear with 6:8 in place of the kinds of none, some or all of its tiles."""
    chosen = rng.random(linear.codes.shape) < rng.choice([0.0, 0.4, 1.0])
    drawn = replace(linear, codes=np.where(chosen, np.uint8(SIX_EIGHT.code), linear.codes))
    rows, columns = linear.weight.shape
    order = rng.random((rows, columns // 8, 8)).argsort(-1).argsort(-1)
    kept = (order < 6).reshape(rows, columns) | (drawn.code_of_weight != SIX_EIGHT.code)
    return replace(drawn, kept_by_masks=kept)


def columns_of_groups(columns: int) -> NDArray[np.int64]:
    """Returns the columns of each group of 16, `[K/16, 16]`: the columns that lane t holds of a slab of 64, in order."""
    places = [
        [
            64 * slab + 16 * step + 8 * half + 2 * t + pair
            for step in range(4)
            for half in (0, 1)
            for pair in (0, 1)
        ]
        for slab in range(columns // 64)
        for t in range(4)
    ]
    return np.array(places, np.int64).reshape(-1, 16)
