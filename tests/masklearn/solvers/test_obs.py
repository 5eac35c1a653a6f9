import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from masklearn.masks.kinds.table import BY_CODE, PRUNED, TWO_FOUR
from masklearn.masks.nm_codes import PATTERNS, patterns_from_scores
from masklearn.solvers import obs
from masklearn.solvers.obs import (
    _solve_columns,
    cholesky,
    inverse_factor,
    inverse_of_factor,
    solve_each,
    solve_linear,
    solve_unstructured,
    upper_factor_of_inverse,
)
from masklearn.solvers.projection import Codes, Projection
from tests.masklearn.solvers.problems import damped, eliminate, problem
from tests.refusals import refused


def factor_of(hessian, damping=0.01):
    return inverse_factor(hessian.clone(), damping, "linear", lambda line: pytest.fail(line))


@pytest.mark.parametrize("given", [False, True])
def test_agrees_with_elimination_by_an_explicit_inverse(given):
    weight, hessian = problem()
    sparse = torch.rand(12, 75, generator=torch.Generator().manual_seed(1)) < 0.6
    codes = torch.randint(0, 6, (12, 75), dtype=torch.uint8) if given else None
    given_codes = None if codes is None else Codes(codes)
    solved = solve_linear(weight, factor_of(hessian), Projection(sparse), given_codes)
    assert not given or torch.equal(solved.codes.pattern, codes)
    keep = torch.from_numpy(PATTERNS)[solved.codes.pattern.long()].view(12, 300)
    pruned = ~keep & sparse.repeat_interleave(4, dim=1)
    expected, loss = eliminate(weight, hessian, lambda _, j, __: pruned[:, j])
    torch.testing.assert_close(solved.weight.double(), expected, rtol=2e-3, atol=2e-3)
    assert torch.equal(solved.weight == 0, pruned)
    torch.testing.assert_close(solved.loss.double(), loss.view(12, 75, 4).sum(2), rtol=1e-2, atol=1e-2)
    assert not solved.loss[~sparse].any()


def test_each_group_keeps_its_costliest_weights():
    weight, hessian = problem(k=8)
    upper = factor_of(hessian)
    first = (weight[:, :4] / upper.diagonal()[:4]).square()
    allowed = Projection.everywhere(TWO_FOUR, (len(weight), 8), weight.device)
    codes = solve_linear(weight, upper, allowed).codes.pattern
    assert torch.equal(codes[:, :1], patterns_from_scores(first))


@pytest.mark.parametrize("most", [1, 25, 10**6], ids=["alone", "two at a time", "all at once"])
def test_linears_that_are_solved_as_one_matrix(most, monkeypatch):
    """Mosaics of only 2:4, of only n:16 and of all kinds, in linears of different height."""
    monkeypatch.setattr(obs, "_TOGETHER", most)
    weight, hessian = problem(k=128)
    upper = factor_of(hessian)
    rng, codes = np.random.default_rng(0), [kind.code for kind in PRUNED.values()]
    linears = []
    for rows, kinds in [
        (12, codes[:1]),
        (8, codes[1:]),
        (12, codes),
        (4, [0, codes[0]]),
        (12, [0, codes[-1]]),
    ]:
        tiles = rng.choice(kinds, (rows // 4, 2)).astype(np.uint8)
        allowed = Projection.of_tiles(tiles, (rows, 128), (4, 64), weight.device)
        linears.append((weight[:rows].roll(rows, dims=1), allowed))
    found = dict(solve_each(linears, upper))
    assert sorted(found) == list(range(len(linears)))
    for i, linear in enumerate(linears):
        alone = solve_linear(linear[0], upper, linear[1])
        torch.testing.assert_close(found[i].weight, alone.weight)
        torch.testing.assert_close(found[i].loss, alone.loss)
        assert torch.equal(found[i].weight == 0, alone.weight == 0)
        assert torch.equal(linear[1].keep(found[i].codes), linear[1].keep(alone.codes))
        assert found[i].codes.masks.keys() == alone.codes.masks.keys()


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("kinds", [[0, 1], [0, 2], [0, 8], [0, *BY_CODE]], ids=["2:4", "n:16", "6:8", "all"])
def test_loops_and_torch_operations_prune_alike(kinds, given):
    """The CPU's loops, and the operations that other devices run. 70 rows are more than the loops take at a time."""
    k = 184 if kinds == [0, 8] else 192  # 6:8 needs a multiple of 8 only
    weight, hessian = problem(n=70, k=k)
    upper = factor_of(hessian)
    tiles = np.random.default_rng(0).choice(kinds, (14, 3)).astype(np.uint8)
    allowed = Projection.of_tiles(tiles, (70, k), (5, 64), weight.device)
    codes = allowed.codes(weight.abs()) if given else None
    found, expected = (
        solve_linear(weight, upper, allowed, codes),
        _solve_columns(weight, upper, allowed, codes),
    )
    assert torch.equal(allowed.keep(found.codes), allowed.keep(expected.codes))
    torch.testing.assert_close(found.weight, expected.weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_unstructured_pruning_agrees_with_elimination(ratio):
    weight, hessian = problem()
    new = solve_unstructured(weight, factor_of(hessian), ratio)
    zeros = new == 0
    for start in (0, 128, 256):
        part = zeros[:, start : start + 128]
        assert int(part.sum()) == round(ratio * part.numel())
    expected, _ = eliminate(weight, hessian, lambda _, j, __: zeros[:, j])
    torch.testing.assert_close(new.double(), expected, rtol=2e-3, atol=2e-3)


def test_indefinite_hessians_are_damped_more_with_a_note():
    said = []
    hessian = torch.ones(8, 8) - 0.15 * torch.eye(8)  # smallest eigenvalue -0.15, mean diagonal 0.85
    upper = inverse_factor(hessian.clone(), 0.01, "model.q_proj", said.append)
    assert len(said) == 2
    assert "model.q_proj" in said[0] and "damping raised to 1" in said[1]
    expected = damped(hessian, 1.0)
    torch.testing.assert_close(upper.t() @ upper @ expected, torch.eye(8), atol=1e-5, rtol=0)
    with refused():
        inverse_factor(
            0.1 * torch.eye(8) - torch.ones(8, 8).fill_diagonal_(0), 0.01, "model.q_proj", said.append
        )


def test_inputs_that_are_not_finite_or_all_zero():
    with refused():
        inverse_factor(torch.full((4, 4), float("nan")), 0.01, "model.q_proj", print)
    weight = torch.randn(3, 8)
    allowed = Projection.everywhere(TWO_FOUR, (3, 8), weight.device)
    solved = solve_linear(weight, inverse_factor(torch.zeros(8, 8), 0.01, "q", print), allowed)
    assert torch.equal(solved.weight, weight * (solved.weight != 0))


def hessian(size: int) -> torch.Tensor:
    x = torch.randn(size + 40, size, generator=torch.Generator().manual_seed(size))
    return x.T @ x / len(x) + 0.1 * torch.eye(size)


@pytest.mark.parametrize("size", [1, 4, 127, 128, 129, 700])
def test_factors_and_inverses_are_those_of_lapack(size: int) -> None:
    matrix = hessian(size)
    lower, exact = cholesky(matrix), matrix.double()
    assert lower is not None
    torch.testing.assert_close(lower.double(), torch.linalg.cholesky(exact), rtol=1e-4, atol=1e-5)
    upper = upper_factor_of_inverse(matrix)
    assert upper is not None and torch.equal(upper, upper.triu())
    torch.testing.assert_close(upper.T.double() @ upper.double(), exact.inverse(), rtol=1e-3, atol=1e-4)
    inverse = inverse_of_factor(lower)
    torch.testing.assert_close(inverse.double(), exact.inverse(), rtol=1e-3, atol=1e-4)
    assert torch.equal(inverse, inverse.T)


@pytest.mark.parametrize("place", [0, 130, 299])
def test_an_indefinite_matrix_has_no_factor(place: int) -> None:
    matrix = hessian(300)
    matrix[place, place] = -1.0
    assert cholesky(matrix) is None
    assert upper_factor_of_inverse(matrix) is None


# Sizes at which LAPACK's factors, MKL's products and torch's sums depend on the number of threads by themselves.
_DIGESTS = """
from masklearn.base.threads import settle_threads, total
settle_threads()
import hashlib, torch
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.solvers.alps import solve_rows
from masklearn.solvers.obs import cholesky, inverse_of_factor, solve_linear, upper_factor_of_inverse
from masklearn.solvers.projection import Projection
x = torch.randn(900, 700, generator=torch.Generator().manual_seed(0))
matrix = x.T @ x / 900 + 0.1 * torch.eye(700)
for threads in (1, 2, 3, 4):
    torch.set_num_threads(threads)
    lower = cholesky(matrix)
    upper = upper_factor_of_inverse(matrix)
    allowed = Projection.everywhere(TWO_FOUR, (300, 700), x.device)
    solved, (values, _) = solve_linear(x[:300], upper, allowed), solve_rows(x[:300], matrix, 0.01, "l", print, allowed)
    made = (
        x.T @ x, lower, inverse_of_factor(lower.clone()), upper, total(x), x[:64] @ x[:64].T, solved.weight, solved.loss,
        values,
    )
    print(hashlib.sha256(b"".join(one.contiguous().numpy().tobytes() for one in made)).hexdigest())
"""


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this torch computes without MKL")
def test_thread_count_does_not_change_bytes() -> None:
    ours = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    env = ours | {"PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", _DIGESTS], capture_output=True, text=True, env=env, check=True
    )
    assert len(done.stdout.split()) == 4
    assert len(set(done.stdout.split())) == 1
