"""Rounds a linear's weights to integers with scales, under a fixed mask and on the Hessian of its inputs.

Every step lessens the squared output error tr (W − Q) H (W − Q)ᵀ of a weight Q = integers · scales. H is XᵀX, or XᵀDX if
the tokens have weights (`masklearn.stream.moments`):

1. GPTQ (arXiv 2210.17323): columns are rounded in order, and what a column loses goes to the columns after it. A pruned
   column is rounded to 0. A scale is searched when its first column is reached, on the weights as they are then.
2. Descent (QuantEase, arXiv 2309.01885): each weight is rounded anew, with all others as they are. It moves kept weights
   only, so unlike step 1 it loses nothing by the columns that must end at 0.
3. int4: each scale becomes the best scale for its integers, and the descent runs once more, twice in turns.

The Hessian of 8,192 tokens fits these tokens, so it gets more damping here than the values are solved with. The figures
below are the error that int4 adds to the error of pruning, relative to positive scales only, on 16 other windows (first rows
of 7 linears of block 3 of SmolLM2-135M, 70 % of the tiles 2:4 after ALPS, 16 windows, XᵀX). Scales of both signs: .90.
Damping of .1 of the mean diagonal instead of .01: .57, because the descent then also takes back part of ALPS's fit to the
tokens; .95 if the pruned values themselves are the target. Another turn of scales and descent: .53. Columns in the order of
their inputs' energy gain another hundredth, and are not worth the code. Scales that are searched by the error of only the
column, instead of its cost with feedback, lose up to 3 % more. ALPS runs once, before: after rounding every value is on the
grid, so another fit could not move values.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.base.errors import MaskLearnError
from masklearn.base.threads import in_parallel
from masklearn.feed import Group
from masklearn.quant.grid import LARGEST_STORABLE, Grid, stored_scales
from masklearn.quant.table import INT4, WeightType
from masklearn.solvers import obs

# Shares of the largest |w| that the highest integer may stand for. At 7/8 the lowest integer of int4 stands for all of it.
_SHRINK = (1.0, 0.95, 0.9, 0.875, 0.8, 0.75, 0.7, 0.625, 0.55)
_DAMPING = 0.1  # of the Hessian, at least, as a share of its mean diagonal
_TURNS = 2  # of fitting scales and descent
_BLOCK = 64  # columns between two updates of all others; the span of a scale of int4
_ROWS = 512  # rows of a part; parts are solved in parallel
_Result = TypeVar("_Result")


@dataclass(frozen=True, eq=False)
class Rounded:
    """Rounded linear. values: integers · scales `[N, K]`, fp32; grid: its weight type and scales."""

    values: torch.Tensor
    grid: Grid


def round_group(
    group: Group,
    found: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    types: Mapping[str, WeightType],
    damping: float,
    note: Callable[[str], object],
    grids: Mapping[str, Grid] = MappingProxyType({}),
) -> dict[str, Rounded]:
    """Round linears of a group, whose weights are the target.

    found: values to round `[N, K]`, 0 where pruned, and masks of kept weights `[N, K]`, by name; types: quantised types of
    the linears to round; damping, note: arguments of `obs.with_damping`, whose errors are raised (`_DAMPING` is the least);
    grids: grids of linears that keep their scales; scales of all others are searched. Raises MaskLearnError also as
    `check_range` does.
    """
    rounded: dict[str, Rounded] = {}
    if not types:
        return rounded
    for name in types.keys() - grids.keys():
        check_range(name, found[name][0], types[name])
    hessian = group.moment.clone() if group.weighted is None else group.weighted()
    # Damps `hessian` in place.
    factor = obs.inverse_factor(hessian, max(damping, _DAMPING), next(iter(types)), note)
    if not bool(hessian.diagonal().any()):  # all inputs are 0, so every choice has the same error
        hessian = factor
    for kind, keeps in dict.fromkeys((kind, name in grids) for name, kind in types.items()):
        names = [name for name in types if types[name] is kind and (name in grids) is keeps]
        target = torch.cat([group.weights[name] for name in names]).float()
        values, kept = (torch.cat([found[name][i] for name in names]) for i in (0, 1))
        scales = None
        if keeps:
            given = np.concatenate(
                [grids[name].scales.reshape(len(group.weights[name]), -1) for name in names]
            )
            scales = torch.from_numpy(given).to(target.device)
        whole = _round_rows(target, values, kept, hessian, factor, kind, scales)
        start = 0
        for name in names:
            rows = slice(start, start + len(group.weights[name]))
            rounded[name] = Rounded(whole.values[rows], Grid(kind, whole.grid.scales[rows]))
            start = rows.stop
    return rounded


def losses_of_rows(
    weight: torch.Tensor, factor: torch.Tensor, kind: WeightType, check: torch.Tensor | None = None
) -> torch.Tensor:
    """Returns the squared output error of rounding each row only by step 1, `[N]`, summed over tokens.

    weight: `[N, K]`; factor: result of `obs.inverse_factor`; check: XᵀX of other tokens to take the error on, None for the
    tokens of the Hessian.
    """

    def part(start: int) -> torch.Tensor:
        rows = weight[start : start + _ROWS].clone()
        # Step 1 needs only the factor of the Hessian.
        one = _Part(rows, rows, torch.ones_like(rows), factor, factor, kind, None)
        lost = one.gptq()
        if check is None:
            return lost
        errors = rows - one.values()
        return (errors @ check).mul_(errors).sum(dim=1)

    return torch.cat(_in_parts(part, weight))


def check_range(name: str, weight: torch.Tensor, kind: WeightType) -> None:
    """Raises MaskLearnError if a weight is too large for the scales of its type, which float16 must hold too."""
    if kind.span is not None and weight.numel():
        largest = float(weight.abs().max())
        if largest > kind.highest * LARGEST_STORABLE:
            raise MaskLearnError(
                f"The weights of {name} are too large for {kind}",
                f"The largest is {largest:g}, and a scale of {kind} is a number of float16.",
                f"Give {name.rpartition('.')[2]}=int8 behind a comma, or exclude this linear.",
            )


def round_nearest(
    weight: torch.Tensor, kept: torch.Tensor, kind: WeightType, grid: Grid | None = None
) -> Rounded:
    """Round each kept weight to the nearest number of the grid whose scales lose least of it, without a Hessian.

    weight: `[N, K]`; kept: mask of kept weights `[N, K]`; grid: grid to use, None to search its scales.
    """
    columns, scales = (weight.float() * kept).t().contiguous(), []
    span = kind.span or len(columns)
    one = torch.ones(span, 1, device=weight.device)
    given = None if grid is None else torch.from_numpy(grid.scales).reshape(len(weight), -1).to(weight.device)
    for start in range(0, len(columns), span):
        part = columns[start : start + span]
        scale = _search(part, one, kind) if given is None else given[:, start // span]
        part.copy_(_integers(part, scale, kind) * scale)
        scales.append(scale)
    return _rounded(columns, scales, kind)


def _round_rows(
    target: torch.Tensor,
    values: torch.Tensor,
    kept: torch.Tensor,
    hessian: torch.Tensor,
    factor: torch.Tensor,
    kind: WeightType,
    scales: torch.Tensor | None,
) -> Rounded:
    """Round rows of linears; scales: scales to keep `[N, K/span]`, None to search them."""

    def part(start: int) -> Rounded:
        rows = slice(start, start + _ROWS)
        given = None if scales is None else scales[rows]
        one = _Part(target[rows], values[rows], kept[rows], hessian, factor, kind, given)
        one.gptq()
        one.descend()
        for _ in range(_TURNS if kind.span is not None and given is None else 0):
            one.fit_scales()
            one.descend()
        return _rounded(one.values().t(), list(one.scales), kind)

    parts = _in_parts(part, target)
    found = np.concatenate([one.grid.scales for one in parts])
    return Rounded(torch.cat([one.values for one in parts]), Grid(kind, found))


def _in_parts(part: Callable[[int], _Result], weight: torch.Tensor) -> list[_Result]:
    """Returns `part(first row)` for each part of the rows of a weight."""
    starts = range(0, len(weight), _ROWS)
    if weight.device.type != "cpu":  # every operation is large enough for the whole device
        return [part(start) for start in starts]
    return in_parallel(part, starts)


class _Part:
    """Some rows of a linear, transposed, so that a column of weights is contiguous.

    integers: `[K, N]` in fp32; scales: `[K/span, N]`; given: scales to keep `[N, K/span]`, None to search them.
    """

    def __init__(
        self,
        target: torch.Tensor,
        values: torch.Tensor,
        kept: torch.Tensor,
        hessian: torch.Tensor,
        factor: torch.Tensor,
        kind: WeightType,
        given: torch.Tensor | None,
    ) -> None:
        self._target, self._values = target.t().contiguous(), values.t().contiguous().float()
        self._kept = kept.t().contiguous().float()
        self._hessian, self._factor, self._kind = hessian, factor, kind
        columns, rows = self._target.shape
        self.span = kind.span or columns
        self.integers = torch.zeros_like(self._target)
        self._searches = given is None
        self.scales = torch.zeros(columns // self.span, rows, device=target.device)
        if given is not None:
            self.scales.copy_(given.t())

    def gptq(self) -> torch.Tensor:
        """Round the columns in order. Overwrites the values that it starts from. Returns the squared output error `[N]`,
        summed from the losses of the columns."""
        columns, factor, count = self._values, self._factor, len(self._values)
        pivots = factor.diagonal()
        cost = pivots.reciprocal().square()[:, None]  # of an error in each column, by the columns after it
        dividers = pivots.tolist()
        lost = torch.zeros(columns.shape[1], device=columns.device)
        for start in range(0, count, _BLOCK):
            end = min(start + _BLOCK, count)
            if self._searches and start % self.span == 0:
                whole = slice(start, start + self.span)
                self.scales[start // self.span] = _search(
                    columns[whole] * self._kept[whole], cost[whole], self._kind
                )
            scale, steps = self._scale_of(start)
            errors = torch.empty(end - start, columns.shape[1], device=columns.device)
            for j in range(start, end):
                found = self._nearest(columns[j] * steps, j)
                error = errors[j - start, None]
                torch.addcmul(columns[j], found, scale, value=-1, out=error[0]).div_(dividers[j])
                columns[j + 1 : end].addmm_(factor[j : j + 1, j + 1 : end].t(), error, alpha=-1)
            columns[end:].addmm_(factor[start:end, end:].t(), errors, alpha=-1)
            lost += errors.square().sum(dim=0)
        return lost

    def descend(self) -> None:
        """Round every kept weight anew, in order, as is best with all others as they are."""
        residual, hessian = self._residual(), self._hessian
        pulls = hessian.diagonal().reciprocal().tolist()
        for start in range(0, len(residual), _BLOCK):
            end = min(start + _BLOCK, len(residual))
            scale, steps = self._scale_of(start)
            changes = torch.empty(end - start, residual.shape[1], device=residual.device)
            for j in range(start, end):
                before = self.integers[j].clone()
                found = self._nearest(torch.addcmul(before, residual[j], steps, value=pulls[j]), j)
                change = changes[j - start, None]
                torch.mul(found.sub(before), scale, out=change[0])
                residual[j + 1 : end].addmm_(hessian[j + 1 : end, j : j + 1], change, alpha=-1)
            residual[end:].addmm_(hessian[end:, start:end], changes, alpha=-1)

    def _scale_of(self, column: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the scale of a column in each row, and its reciprocal: 0 where the scale is 0."""
        scale = self.scales[column // self.span]
        return scale, torch.where(scale != 0, scale.reciprocal(), 0.0)

    def _nearest(self, wanted: torch.Tensor, column: int) -> torch.Tensor:
        """Round numbers of steps in place, to the integers of a column. Returns these; pruned weights are 0."""
        found = wanted.round_().clamp_(self._kind.lowest, self._kind.highest).mul_(self._kept[column])
        self.integers[column] = found
        return found

    def values(self) -> torch.Tensor:
        """Returns integers · scales `[N, K]`."""
        return (self.integers * self.scales.repeat_interleave(self.span, 0)).t()

    def fit_scales(self) -> None:
        """Give each span, in order, the scale that is best for its integers and all others as they are."""
        residual, hessian = self._residual(), self._hessian
        for i, start in enumerate(range(0, len(residual), self.span)):
            whole = slice(start, start + self.span)
            integers = self.integers[whole]
            slope = (integers * residual[whole]).sum(dim=0)
            curvature = (integers * (hessian[whole, whole] @ integers)).sum(dim=0)
            scale = self.scales[i]
            better = _stored(torch.where(curvature > 0, scale + slope / curvature, scale), self._kind)
            change = better - scale
            change[(change * (curvature * change - 2 * slope) >= 0) | (better == 0)] = 0.0
            self.scales[i] = scale + change
            residual.addmm_(hessian[:, whole], integers * change, alpha=-1)

    def _residual(self) -> torch.Tensor:
        """Returns H (W − Q)ᵀ `[K, N]`."""
        return self._hessian @ (self._target - self.integers * self.scales.repeat_interleave(self.span, 0))


def _search(columns: torch.Tensor, cost: torch.Tensor, kind: WeightType) -> torch.Tensor:
    """Returns the scale of each row, of a few shares of its largest |w|, that loses least of its weights.

    A scale of int4 may be negative. The lowest integer, -8, is larger than the highest, 7, so a span loses least if its
    largest weight gets -8, which takes a negative scale if that weight is positive. -128 and 127 of int8 are too close for
    that to matter.

    columns: weights `[columns, N]` of a span; cost: of a squared error in each column, `[columns, 1]`.
    """
    top = columns.abs().amax(dim=0)
    best, least = torch.zeros_like(top), torch.full_like(top, torch.inf)
    signs = (1.0, -1.0) if kind is INT4 else (1.0,)
    for share, sign in itertools.product(_SHRINK, signs):
        scale = _stored(top * (sign * share / kind.highest), kind)
        lost = (_integers(columns, scale, kind) * scale - columns).square_().mul_(cost).sum(dim=0)
        better = lost < least
        best, least = torch.where(better, scale, best), torch.where(better, lost, least)
    return best


def _integers(values: torch.Tensor, scale: torch.Tensor, kind: WeightType) -> torch.Tensor:
    """Returns the nearest integers, in fp32; 0 where the scale is 0."""
    return torch.where(scale != 0, values / scale, 0.0).round_().clamp_(kind.lowest, kind.highest)


def _stored(scale: torch.Tensor, kind: WeightType) -> torch.Tensor:
    return torch.from_numpy(stored_scales(scale.cpu().numpy(), kind)).to(scale.device)


def _rounded(columns: torch.Tensor, scales: Sequence[torch.Tensor], kind: WeightType) -> Rounded:
    """Returns the result of transposed values `[K, N]`, and scales `[N]` of each span."""
    stored: NDArray[np.float32] = torch.stack(list(scales), dim=1).cpu().numpy()
    values = columns.t().contiguous().add_(0.0)  # from -0 to +0
    return Rounded(values, Grid(kind, stored[:, 0] if kind.span is None else stored))
