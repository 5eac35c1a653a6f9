import pytest
import torch

from masklearn.masks.nm_codes import PATTERNS, patterns_from_scores
from masklearn.solvers.alps import solve_rows
from masklearn.solvers.projection import Codes, Projection
from tests.masklearn.solvers.problems import damped, output_error, problem
from tests.refusals import refused


def solve(weight, hessian, sparse, patterns=None, damping=0.01):
    given = None if patterns is None else Codes(patterns)
    values, codes = solve_rows(
        weight, hessian, damping, "linear", lambda line: pytest.fail(line), Projection(sparse), given
    )
    return values, codes.pattern


def some(shape, share=0.6, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def kept_by(codes, sparse):
    keep = torch.from_numpy(PATTERNS.copy())[codes.long()] | ~sparse[..., None]
    return keep.view(len(codes), -1)


def test_given_patterns_get_the_least_squares_solution():
    weight, hessian = problem(n=6, k=60, tokens=200)
    sparse = some((6, 15))
    codes = torch.randint(0, 6, (6, 15), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    values, same = solve(weight, hessian, sparse, codes)
    assert torch.equal(same, codes)
    keep, exact = kept_by(codes, sparse), torch.zeros(6, 60, dtype=torch.float64)
    h = damped(hessian.double())
    for row in range(6):  # kept weights solve their normal equations
        on = keep[row]
        exact[row, on] = torch.linalg.solve(h[on][:, on], h[on] @ weight[row].double())
    assert torch.equal(values == 0, ~keep)
    least, found = output_error(weight, exact, hessian), output_error(weight, values, hessian)
    assert least <= found <= 1.001 * least


def test_rows_do_not_depend_on_each_other():
    """Linears that share their inputs can be solved together."""
    weight, hessian = problem(n=20)
    sparse = some((20, 75))
    values, codes = solve(weight, hessian, sparse)
    for part in (slice(0, 7), slice(7, 20)):
        own, own_codes = solve(weight[part], hessian, sparse[part])
        assert torch.equal(own_codes, codes[part])
        torch.testing.assert_close(own, values[part], rtol=1e-4, atol=1e-5)


def test_rows_without_sparse_groups_stay_unchanged():
    weight, hessian = problem(n=5, k=40)
    sparse = torch.zeros(5, 10, dtype=torch.bool)
    assert torch.equal(solve(weight, hessian, sparse)[0], weight)
    sparse[3] = True
    values, _ = solve(weight, hessian, sparse)
    assert (values != weight).any(dim=1).tolist() == [False, False, False, True, False]


def test_inputs_that_are_always_zero():
    """Weights of zero inputs cost nothing; when all inputs are zero, the largest weights stay."""
    weight, hessian = problem(n=5, k=40)
    hessian[:, 8:12] = hessian[8:12] = 0.0
    values, _ = solve(weight, hessian, torch.ones(5, 10, dtype=torch.bool))
    assert torch.isfinite(values).all()
    values, codes = solve(weight, torch.zeros(40, 40), torch.ones(5, 10, dtype=torch.bool))
    assert torch.equal(codes, patterns_from_scores(weight.abs()))
    assert torch.equal(values, weight * kept_by(codes, torch.ones(5, 10, dtype=torch.bool)))


@pytest.mark.parametrize("given", [False, True])
def test_an_indefinite_hessian_is_damped_more_and_said(given):
    weight, _ = problem(n=5, k=40)
    codes = Codes(torch.zeros(5, 10, dtype=torch.uint8)) if given else None
    hessian = torch.eye(40)
    hessian[0, 1] = hessian[1, 0] = 1.3
    hessian[0, 2] = hessian[2, 0] = 0.5  # pruned weights are correlated with kept weights
    said = []
    sparse = Projection(torch.ones(5, 10, dtype=torch.bool))
    values, _ = solve_rows(weight, hessian, 0.01, "linear", said.append, sparse, codes)
    assert torch.isfinite(values).all()
    assert said and said[0].startswith("linear: the Hessian is not positive definite")
    hessian[0, 1] = hessian[1, 0] = 9.0
    with refused():
        solve_rows(weight, hessian, 0.01, "linear", said.append, sparse, codes)
