"""ALPS (arXiv 2406.07831) for hybrid masks: finds patterns by ADMM, then their best values by conjugate gradients.

Both minimise the squared output error ‖X(W − D)ᵀ‖² = tr (W − D) H (W − D)ᵀ, H = XᵀX, over all D with the zeros that the
kinds of the tiles require. SparseGPT fixes one column at a time and never returns to earlier columns. ALPS updates all
weights together: on SmolLM2-135M at ratio .35 it leaves 12 % less error with SparseGPT's patterns, and 17 % less with the
patterns of ADMM.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch

from masklearn.base.threads import in_parallel
from masklearn.feed import Group
from masklearn.solvers.obs import cholesky, inverse_of_factor, with_damping
from masklearn.solvers.projection import Codes, Projection

# ρ is in units of H's diagonal, which is scaled to 1. It grows from a value at which patterns change freely to a
# value at which they hardly change. Each ρ costs an inverse of H + ρI and has 3 steps of ADMM, as in the paper. 12 values
# that grow by 1.3, of a step each, leave 0.7 % more error (SmolLM2-135M, ratio .35, tiles 64x64, 16 windows).
_RHO_GROWTH = 1.6
_RHOS, _STEPS = tuple(0.15 * _RHO_GROWTH**i for i in range(4)), 3
# Inputs of more columns than _WIDTH have a single ρ: an inverse takes K³ operations, and more values gain nothing there. On
# 3,072 columns of down_proj (block 2 of Qwen2.5-Coder-1.5B, 2:4 everywhere, 16,384 tokens, damping 1 / rows per column) it
# leaves .0412 of the energy of the outputs on other text, in 4 s; four values leave .0436, in 19 s.
_WIDE_RHOS, _WIDE_STEPS = (1.0,), 6
_REFINE_STEPS = 5  # steps of conjugate gradients after ADMM; more of them change the error by less than 0.1 %
_FIT_STEPS = 20  # steps of conjugate gradients for given patterns, which start from the masked weight
# On a CPU linears are solved in parts of this many rows, a part per thread; see `masklearn.base.threads`. Up to this width
# the inverses of H + ρI are computed at the same time, a thread for each, and above it one by one.
_ROWS, _WIDTH = 128, 2048


def solve_group(
    group: Group,
    allowed: Mapping[str, Projection],
    given: Mapping[str, Codes] | None,
    damping: float,
    note: Callable[[str], object],
) -> dict[str, tuple[torch.Tensor, Codes]]:
    """Solve the rows of all linears of a group together; see `solve.Solver`."""
    names = list(group.weights)
    values, codes = solve_rows(
        torch.cat(list(group.weights.values())),
        group.moment,
        damping,
        names[0],
        note,
        Projection.together([allowed[name] for name in names]),
        None if given is None else Codes.together([given[name] for name in names]),
    )
    solved, start = {}, 0
    for name, weight in group.weights.items():
        rows = slice(start, start + len(weight))
        own = codes[rows]
        # Another linear of the group may have tiles of another family.
        masks = {family: own.masks[family] for family in allowed[name].kept}
        solved[name] = values[rows], Codes(own.pattern, masks)
        start = rows.stop
    return solved


def solve_rows(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    damping: float,
    name: str,
    note: Callable[[str], object],
    allowed: Projection,
    given: Codes | None = None,
) -> tuple[torch.Tensor, Codes]:
    """Returns new values `[N, K]`, in which pruned weights are 0, and codes of all groups.

    Rows are independent of each other. A row with nothing to prune does not change.

    weight: `[N, K]`, the rows of all linears that share their inputs; hessian: XᵀX `[K, K]`; allowed: the masks that the
    tiles allow; given: codes to use, None to choose them; damping, name, note: arguments of `obs.with_damping`, whose errors
    are raised.
    """
    weight, rows = weight.float(), allowed.pruned_rows
    if not bool(rows.all()):
        values = weight.clone()
        codes = allowed.codes(weight.abs())
        if given is not None:
            codes.put(slice(None), given)
        if bool(rows.any()):
            own = None if given is None else given[rows]
            values[rows], found = solve_rows(weight[rows], hessian, damping, name, note, allowed[rows], own)
            codes.put(rows, found)
        return values, codes
    if not bool(hessian.diagonal().any()):  # all inputs are 0, so every choice has the same error
        codes = allowed.codes(weight.abs()) if given is None else given
        return weight * allowed.keep(codes), codes

    def attempt(damped: torch.Tensor) -> tuple[torch.Tensor, Codes] | None:
        scale = damped.diagonal().sqrt()
        unit = damped / scale / scale[:, None]
        found = _solve(weight * scale, unit, allowed, given)
        return None if found is None else (found[0] / scale, found[1])

    return with_damping(hessian.clone(), damping, name, note, attempt)


_Solved = tuple[torch.Tensor, Codes]
_Pulls = Iterable[tuple[float, torch.Tensor | None]]


def _solve(
    weight: torch.Tensor, hessian: torch.Tensor, allowed: Projection, given: Codes | None
) -> _Solved | None:
    """Returns D and its codes, or None if a factorisation fails. hessian: scaled to a diagonal of 1."""
    wide = len(hessian) > _WIDTH
    rhos, steps = (_WIDE_RHOS, _WIDE_STEPS) if wide else (_RHOS, _STEPS)
    if given is not None:
        rhos = ()
    if weight.device.type != "cpu":
        pulls = ((rho, _inverse(hessian, rho)) for rho in rhos)
        return _solve_rows(weight, hessian, allowed, given, pulls, steps)
    inverses = (
        [_inverse(hessian, rho) for rho in rhos] if wide else in_parallel(partial(_inverse, hessian), rhos)
    )
    found = list(zip(rhos, inverses, strict=True))

    def part(start: int) -> _Solved | None:
        rows = slice(start, start + _ROWS)
        own = None if given is None else given[rows]
        return _solve_rows(weight[rows], hessian, allowed[rows], own, found, steps)

    parts = in_parallel(part, range(0, len(weight), _ROWS))
    solved = [one for one in parts if one is not None]
    if len(solved) < len(parts):
        return None
    values, codes = zip(*solved, strict=True)
    return torch.cat(values), Codes.together(codes)


def _solve_rows(
    weight: torch.Tensor,
    hessian: torch.Tensor,
    allowed: Projection,
    given: Codes | None,
    pulls: _Pulls,
    steps: int,
) -> _Solved | None:
    if given is not None:
        start, codes, fits = weight * allowed.keep(given), given, _FIT_STEPS
    else:
        found = _admm(weight, allowed, pulls, steps)
        if found is None:
            return None
        (start, codes), fits = found, _REFINE_STEPS
    values = _fit(weight, start, allowed.keep(codes), hessian, fits)
    return None if values is None else (values, codes)


def _admm(weight: torch.Tensor, allowed: Projection, pulls: _Pulls, steps: int) -> _Solved | None:
    """Returns D and its codes, or None if a factorisation fails. pulls: each ρ and its (H + ρI)⁻¹; steps: for each ρ.

    These are equations (5)–(8) of the paper with V = ρU: X = (H + ρI)⁻¹(HW + ρ(D − U)), D = projection of X + U, and
    U = U + X − D. When ρ grows by a factor, U shrinks by it.
    """
    codes = allowed.codes(weight.abs())
    values, dual = weight * allowed.keep(codes), torch.zeros_like(weight)
    for rho, pull in pulls:
        if pull is None:
            return None
        for _ in range(steps):
            # HW + ρ(D − U) = (H + ρI)W + ρ(D − U − W), so X = W + ρ(D − U − W)(H + ρI)⁻¹.
            values -= dual
            values -= weight
            dual += torch.addmm(weight, values, pull, alpha=rho)  # X + U
            codes = allowed.codes(dual.abs())
            kept = allowed.keep(codes)
            values = dual * kept
            dual.masked_fill_(kept, 0.0)
        dual /= _RHO_GROWTH
    return values, codes


def _inverse(hessian: torch.Tensor, rho: float) -> torch.Tensor | None:
    shifted = hessian.clone()
    shifted.diagonal().add_(rho)
    lower = cholesky(shifted)
    del shifted
    return None if lower is None else inverse_of_factor(lower)


def _fit(
    target: torch.Tensor, start: torch.Tensor, kept: torch.Tensor, hessian: torch.Tensor, steps: int
) -> torch.Tensor | None:
    """Run conjugate gradients on the kept weights of each row. Returns None if H is not positive definite.

    H has a unit diagonal, so it needs no Jacobi preconditioner.
    """
    values = start.clone()
    residual = ((target - start) @ hessian).mul_(kept)
    direction = residual.clone()
    energy = residual.square().sum(dim=1, keepdim=True)
    for _ in range(steps):
        ahead = (direction @ hessian).mul_(kept)
        curvature = (direction * ahead).sum(dim=1, keepdim=True)
        if bool((curvature < 0).any()):
            return None
        length = torch.where(curvature > 0, energy / curvature, 0.0)  # 0 for a row that has converged
        values.addcmul_(length, direction)
        residual.addcmul_(length, ahead, value=-1)
        before, energy = energy, residual.square().sum(dim=1, keepdim=True)
        direction.mul_(torch.where(before > 0, energy / before, 0.0)).add_(residual)
    return values
