"""SparseGPT (arXiv 2301.00774) for hybrid masks: prunes a linear column by column and compensates in later columns.

With inputs X and H = XᵀX, zeroing weight w_q of a row costs w_q² / [H⁻¹]_qq in squared output error if the other
weights compensate optimally (optimal brain surgeon). All rows have the same order of columns, so they share one factor:
the upper triangular U with H⁻¹ = UᵀU. Its rows are the updates, and its diagonal are the divisors.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TypeVar

import torch

from masklearn.base.errors import MaskLearnError
from masklearn.base.threads import in_parallel, one_thread, total
from masklearn.feed import Group
from masklearn.masks.kinds.base import Family
from masklearn.masks.kinds.table import FAMILIES
from masklearn.masks.nm_codes import PATTERNS, patterns_from_scores
from masklearn.masks.tiles import GROUP
from masklearn.solvers.projection import Codes, Projection
from masklearn.solvers.row_loops import eliminate

_BLOCK = 128  # columns of the diagonal blocks, and between two updates of all later columns, the lazy batch of the paper
_WIDE = 512  # columns that a product updates; a smaller number skips more of the upper triangle


def cholesky(matrix: torch.Tensor) -> torch.Tensor | None:
    """Returns the lower triangular L `[K, K]` with LLᵀ = `matrix`, or None if that is not positive definite.

    matrix: symmetric, fp32 `[K, K]`; its upper triangle is not read.
    """
    if matrix.device.type != "cpu":
        lower, failed = torch.linalg.cholesky_ex(matrix)
        return None if int(failed) else lower
    lower, size = matrix.tril(), len(matrix)
    for start in range(0, size, _BLOCK):
        end = min(start + _BLOCK, size)
        with one_thread():
            corner, failed = torch.linalg.cholesky_ex(lower[start:end, start:end])
        if int(failed):
            return None
        lower[start:end, start:end] = corner
        if end == size:
            break
        below = torch.linalg.solve_triangular(corner.T, lower[end:, start:end], upper=True, left=False)
        lower[end:, start:end] = below
        _update_below(lower, below, end)
    return lower.tril_()


def _update_below(lower: torch.Tensor, below: torch.Tensor, end: int) -> None:
    """Subtract the products of the columns `below`, which end at row and column `end`, from all columns behind them."""

    def part(left: int) -> None:
        right = min(left + _WIDE, len(lower))
        lower[left:, left:right].addmm_(below[left - end :], below[left - end : right - end].T, alpha=-1)

    in_parallel(part, range(end, len(lower), _WIDE))


def inverse_of_factor(lower: torch.Tensor) -> torch.Tensor:
    """Returns (LLᵀ)⁻¹ `[K, K]`. `lower` is overwritten with L⁻¹."""
    if lower.device.type != "cpu":
        return torch.cholesky_inverse(lower)
    inverse = torch.empty_like(lower)
    _invert(lower)

    def part(start: int) -> None:
        end = min(start + _WIDE, len(lower))
        inverse[start:end, :end] = lower[start:, start:end].T @ lower[start:, :end]
        inverse[:start, start:end] = inverse[start:end, :start].T

    in_parallel(part, range(0, len(lower), _WIDE))
    return inverse


def upper_factor_of_inverse(matrix: torch.Tensor) -> torch.Tensor | None:
    """Returns the upper triangular U `[K, K]` with `matrix`⁻¹ = UᵀU, or None if the matrix is not positive definite.

    With rows and columns in reverse order, `matrix` = LLᵀ gives U = L⁻¹ in reverse order. The inverse is therefore neither
    formed nor factored.
    """
    lower = cholesky(matrix.flip(0, 1))
    if lower is None:
        return None
    if lower.device.type == "cpu":
        _invert(lower)
    else:
        lower = torch.linalg.solve_triangular(lower, torch.eye(len(lower), device=lower.device), upper=False)
    return lower.flip(0, 1) if bool(torch.isfinite(lower).all()) else None


def _invert(lower: torch.Tensor) -> None:
    """Overwrite L with L⁻¹, block row by block row."""
    for start in range(0, len(lower), _BLOCK):
        end = min(start + _BLOCK, len(lower))
        with one_thread():
            unit = torch.eye(end - start)
            corner = torch.linalg.solve_triangular(lower[start:end, start:end], unit, upper=False)
        _multiply_left(lower, -(corner @ lower[start:end, :start]), start)
        lower[start:end, start:end] = corner


def _multiply_left(lower: torch.Tensor, rows: torch.Tensor, start: int) -> None:
    """Put `rows` times the part of L⁻¹ above and left of `start` into the rows from `start` on. L⁻¹ is triangular."""

    def part(left: int) -> None:
        right = min(left + _WIDE, start)
        lower[start : start + len(rows), left:right] = rows[:, left:] @ lower[left:start, left:right]

    in_parallel(part, range(0, start, _WIDE))


_Found = TypeVar("_Found")

_MAX_DAMPING = 1.0
_TOGETHER = 8192  # rows that are solved as one matrix, at most
_ROWS = 128  # rows of a part; parts are solved in parallel on a CPU


@dataclass(frozen=True, eq=False)
class Solved:
    """Pruned linear.

    weight: `[N, K]`, pruned weights are 0; codes: of all groups; loss: `[N, K/4]`, squared output error of pruning each 4
    consecutive columns, summed over the tokens of H, 0 where nothing is pruned.
    """

    weight: torch.Tensor
    codes: Codes
    loss: torch.Tensor


def with_damping(
    hessian: torch.Tensor,
    damping: float,
    name: str,
    note: Callable[[str], object],
    attempt: Callable[[torch.Tensor], _Found | None],
) -> _Found:
    """Call `attempt` with H + λ·mean(diag H)·I for growing λ, and return its first result that is not None.

    λ starts at `damping` and grows tenfold after each failure; `note` gets a line about it. `hessian` is overwritten. Raises
    MaskLearnError with the linear's name if H is not finite or λ = 1 does not suffice.
    """
    diagonal = hessian.diagonal()
    mean = float(total(diagonal) / len(diagonal))
    if not torch.isfinite(hessian).all():
        raise MaskLearnError(
            f"The inputs of {name} are not finite",
            "NaN, infinity or values too large for fp32 reach it on the calibration text.",
            "The checkpoint is damaged, or its layers before this linear overflow: use another checkpoint.",
        )
    added = 0.0
    while damping <= _MAX_DAMPING:
        diagonal += damping * mean - added
        added = damping * mean
        found = attempt(hessian)
        if found is not None:
            return found
        damping *= 10
        note(f"{name}: the Hessian is not positive definite, damping raised to {min(damping, 1.0):g}")
    raise MaskLearnError(
        f"The Hessian of {name} is not positive definite",
        f"Damping of up to {_MAX_DAMPING:g} of its mean diagonal did not help.",
        "Give more calibration windows, or exclude this linear.",
    )


def inverse_factor(
    hessian: torch.Tensor, damping: float, name: str, note: Callable[[str], object]
) -> torch.Tensor:
    """Returns the upper triangular U `[K, K]` with (H + λ·mean(diag H)·I)⁻¹ = UᵀU. `hessian` is overwritten.

    `with_damping` determines λ, and raises its errors.
    """
    if not bool(hessian.any()):  # all inputs are 0, so every choice has the same error
        return torch.eye(len(hessian), device=hessian.device)
    return with_damping(hessian, damping, name, note, upper_factor_of_inverse)


def solve_group(
    group: Group,
    allowed: Mapping[str, Projection],
    given: Mapping[str, Codes] | None,
    damping: float,
    note: Callable[[str], object],
) -> dict[str, tuple[torch.Tensor, Codes]]:
    """Solve the linears of a group one after another, with the same factor; see `solve.Solver`."""
    if not any(bool(projection.pruned_rows.any()) for projection in allowed.values()):  # nothing to prune
        codes = given or {name: allowed[name].codes(weight.abs()) for name, weight in group.weights.items()}
        return {name: (weight, codes[name]) for name, weight in group.weights.items()}
    factor = inverse_factor(group.moment.clone(), damping, next(iter(group.weights)), note)
    results = {}
    for name, weight in group.weights.items():
        solved = solve_linear(weight, factor, allowed[name], None if given is None else given[name])
        results[name] = solved.weight, solved.codes
    return results


def solve_linear(
    weight: torch.Tensor,
    factor: torch.Tensor,
    allowed: Projection,
    given: Codes | None = None,
) -> Solved:
    """Prune `weight` `[N, K]` as its tiles allow, and compensate in all later weights of the row.

    factor: result of `inverse_factor`; allowed: the masks that the tiles allow; given: codes to use, None to choose the
    cheapest codes: of a group of 4 or of 8 when its columns are reached, and of a group of 16 when the first column of its
    slab of 64 is reached.
    """
    solve = _solve_rows if weight.device.type == "cpu" else _solve_columns
    return solve(weight, factor, allowed, given)


def solve_each(
    linears: Sequence[tuple[torch.Tensor, Projection]], factor: torch.Tensor
) -> Iterator[tuple[int, Solved]]:
    """Yield the number of each linear of the same inputs, and the result of `solve_linear` for it, in any order.

    Small linears are solved as one matrix, so that there are enough rows for every thread, or for a GPU. Linears with tiles
    of n:16 or 6:8 are solved apart from the others, which need fewer operations.
    """
    for batch in _batches(linears):
        weights, allowed = zip(*(linears[i] for i in batch), strict=True)
        weight = torch.cat(weights) if len(batch) > 1 else weights[0]
        solved = solve_linear(weight, factor, Projection.together(allowed))
        start = 0
        for i, one in zip(batch, weights, strict=True):
            rows = slice(start, start + len(one))
            yield i, Solved(solved.weight[rows], solved.codes[rows], solved.loss[rows])
            start = rows.stop


def _batches(linears: Sequence[tuple[torch.Tensor, Projection]]) -> Iterator[list[int]]:
    """Yield the numbers of linears that are solved as one matrix."""
    for families in sorted({tuple(sorted(allowed.kept)) for _, allowed in linears}):
        batch: list[int] = []
        rows = 0
        for i, (weight, allowed) in enumerate(linears):
            if tuple(sorted(allowed.kept)) != families:
                continue
            if batch and rows + len(weight) >= _TOGETHER:
                yield batch
                batch, rows = [], 0
            batch.append(i)
            rows += len(weight)
        if batch:
            yield batch


def _solve_rows(
    weight: torch.Tensor, factor: torch.Tensor, allowed: Projection, given: Codes | None
) -> Solved:
    """Do the work of `solve_linear` on a CPU."""
    values, factor = weight.float().clone(memory_format=torch.contiguous_format), factor.contiguous()
    codes = allowed.empty_codes() if given is None else given
    loss = torch.empty(codes.pattern.shape)

    def part(first: int) -> None:
        rows = slice(first, first + _ROWS)
        w, masks = values[rows], allowed[rows].arrays(codes[rows])
        for start in range(0, w.shape[1], _BLOCK):
            end = min(start + _BLOCK, w.shape[1])
            errors = torch.empty(len(w), end - start)
            eliminate(
                w.numpy(), factor.numpy(), (start, end), *masks, given is None, errors.numpy(), loss[rows].numpy()
            )  # fmt: skip
            w[:, end:].addmm_(errors, factor[start:end, end:], alpha=-1)

    in_parallel(part, range(0, len(values), _ROWS))
    return Solved(values, codes, loss)


def _solve_columns(
    weight: torch.Tensor,
    factor: torch.Tensor,
    allowed: Projection,
    given: Codes | None,
) -> Solved:
    """Do the work of `solve_linear` by operations on all rows, for other devices than a CPU."""
    columns = weight.t().contiguous().float()  # [K, N], so that a column of weights is contiguous
    k, n = columns.shape
    codes = torch.zeros(k // GROUP, n, dtype=torch.uint8, device=weight.device)
    masks: dict[str, list[torch.Tensor]] = {family: [] for family in allowed.kept}
    dropped = {}  # of the last span of columns that was reached, by family
    sparse = allowed.sparse.t().contiguous()
    loss = torch.zeros(k // GROUP, n, device=weight.device)
    table = torch.from_numpy(PATTERNS.copy()).to(weight.device)
    for start in range(0, k, _BLOCK):
        end = min(start + _BLOCK, k)
        errors = torch.empty(end - start, n, device=weight.device)
        for j in range(start, end, GROUP):
            group, rows = columns[j : j + GROUP], slice(j - start, j - start + GROUP)
            divisors = factor.diagonal()[j : j + GROUP, None]
            if given is not None:
                codes[j // GROUP] = given.pattern[:, j // GROUP]
            elif allowed.has_two_four:
                codes[j // GROUP] = patterns_from_scores((group / divisors).square().t()).view(-1)
            marked = []
            for name, kept in allowed.kept.items():
                family = FAMILIES[name]
                if j % family.span == 0:
                    masks[name].append(_span_codes(columns, factor, family, kept, given, j))
                    dropped[name] = ~family.keep(masks[name][-1]).t().contiguous()
                marked.append(dropped[name][j % family.span :][:GROUP])
            if allowed.has_two_four:
                marked.append(~table[codes[j // GROUP].long()].t() & sparse[j // GROUP])
            pruned = reduce(or_, marked)
            errors[rows] = _prune_columns(group, factor[j : j + GROUP, j : j + GROUP], pruned)
            loss[j // GROUP] = errors[rows].square().sum(dim=0)
            columns[j + GROUP : end].addmm_(
                factor[j : j + GROUP, j + GROUP : end].t(), errors[rows], alpha=-1
            )
        columns[end:].addmm_(factor[start:end, end:].t(), errors, alpha=-1)
    masks_of = {name: torch.cat(spans, dim=1) for name, spans in masks.items()}
    solved = Codes(codes.t().contiguous(), masks_of)
    return Solved(columns.t().contiguous(), solved, loss.t().contiguous())


def _span_codes(
    columns: torch.Tensor,
    factor: torch.Tensor,
    family: Family,
    kept: torch.Tensor,
    given: Codes | None,
    start: int,
) -> torch.Tensor:
    """Returns the codes `[N, groups]` of the groups of a family in one span of columns, chosen by the cost of each weight as
    it is now."""
    groups = slice(start // family.group, (start + family.span) // family.group)
    if given is not None:
        return given.masks[family.name][:, groups]
    span = slice(start, start + family.span)
    costs = (columns[span] / factor.diagonal()[span, None]).square().t()
    codes: torch.Tensor = family.best(costs, kept[:, groups])
    return codes


def solve_unstructured(weight: torch.Tensor, factor: torch.Tensor, ratio: float) -> torch.Tensor:
    """Prune the share `ratio` of `weight` `[N, K]` that costs least in each block of 128 columns, as in the paper."""
    columns = weight.t().contiguous().float()
    k, n = columns.shape
    for start in range(0, k, _BLOCK):
        end = min(start + _BLOCK, k)
        costs = (columns[start:end] / factor.diagonal()[start:end, None]).square()
        pruned = torch.zeros_like(costs, dtype=torch.bool).view(-1)
        pruned[costs.view(-1).argsort(stable=True)[: round(ratio * costs.numel())]] = True
        pruned = pruned.view_as(costs)
        errors = torch.empty(end - start, n, device=weight.device)
        for j in range(start, end):
            row = slice(j - start, j - start + 1)
            errors[row] = _prune_columns(columns[j : j + 1], factor[j : j + 1, j : j + 1], pruned[row])
            columns[j + 1 : end].addmm_(factor[j : j + 1, j + 1 : end].t(), errors[row], alpha=-1)
        columns[end:].addmm_(factor[start:end, end:].t(), errors, alpha=-1)
    return columns.t().contiguous()


def _prune_columns(group: torch.Tensor, factor: torch.Tensor, pruned: torch.Tensor) -> torch.Tensor:
    """Prune a few columns `[g, N]` in order and in place. Returns the errors `[g, N]` for updates of later columns."""
    errors = torch.empty_like(group)
    for i in range(len(group)):
        torch.mul(group[i], pruned[i], out=errors[i]).div_(factor[i, i])
        group[i].masked_fill_(pruned[i], 0.0)
        group[i + 1 :].addmm_(factor[i, i + 1 :, None], errors[i, None], alpha=-1)
    return errors
