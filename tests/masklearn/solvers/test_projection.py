"""Both solvers with tiles of several kinds in one linear."""

import numpy as np
import pytest
import torch

from masklearn.feed import Group
from masklearn.masks.kinds.table import BY_CODE, FAMILIES, PRUNED, TWO_FOUR
from masklearn.masks.nm_codes import PATTERNS, patterns_from_scores
from masklearn.solvers.alps import solve_group, solve_rows
from masklearn.solvers.obs import inverse_factor, solve_linear
from masklearn.solvers.obs import solve_group as solve_group_by_obs
from masklearn.solvers.projection import Codes, Projection
from tests.masklearn.solvers.problems import eliminate, output_error, problem

KINDS = np.array([[1, 2, 0, 8], [2, 8, 3, 1]], np.uint8)  # of 16 x 64 tiles of a linear of 24 x 256
SHAPE, TILE = (24, 256), (16, 64)


def mixed() -> tuple[torch.Tensor, torch.Tensor, Projection]:
    weight, hessian = problem(n=24, k=256, tokens=600)
    return weight, hessian, Projection.of_tiles(KINDS, SHAPE, TILE, torch.device("cpu"))


def check_kept(values: torch.Tensor) -> None:
    """Every group keeps what the kind of its tile keeps."""
    kept = (values != 0).numpy()
    for i, j in np.ndindex(KINDS.shape):
        kind = BY_CODE[int(KINDS[i, j])]
        tile = kept[16 * i : 16 * i + 16, 64 * j : 64 * j + 64]
        if kind.family is None:
            assert tile.all()
        else:
            assert (kind.family.groups(tile).sum(-1) == kind.kept).all()


def test_alps_beats_sparsegpt_for_every_kind() -> None:
    weight, hessian, allowed = mixed()
    values, codes = solve_rows(weight, hessian, 0.01, "linear", pytest.fail, allowed)
    check_kept(values)
    assert torch.equal(values != 0, allowed.keep(codes))
    greedy = solve_linear(weight, inverse_factor(hessian.clone(), 0.01, "linear", pytest.fail), allowed)
    check_kept(greedy.weight)
    assert torch.equal(greedy.weight != 0, allowed.keep(greedy.codes))
    fitted, _ = solve_rows(weight, hessian, 0.01, "linear", pytest.fail, allowed, greedy.codes)
    errors = [output_error(weight, one, hessian) for one in (greedy.weight, fitted, values)]
    assert errors[1] < 0.97 * errors[0] and errors[2] < 0.98 * errors[1]


def test_sparsegpt_chooses_codes_when_it_reaches_them() -> None:
    """An elimination by an explicit inverse, one weight after another, gives the same weights and the same losses."""
    weight, hessian, allowed = mixed()
    solved = solve_linear(weight, inverse_factor(hessian.clone(), 0.01, "linear", pytest.fail), allowed)
    pruned = ~allowed.keep(solved.codes)
    chosen = {  # by the costs as they are at their first column: columns, kind, codes
        64: (64, PRUNED["8:16"], solved.codes.masks["n:16"][:16, 4:8]),  # the second slab
        200: (
            8,
            PRUNED["6:8"],
            solved.codes.masks["6:8"][:16, 25:26],
        ),  # the second group of 8 of the fourth slab
    }

    def prunes(w: torch.Tensor, j: int, inverse: torch.Tensor) -> torch.Tensor:
        if j in chosen:
            size, kind, codes = chosen.pop(j)
            upper = torch.linalg.cholesky(inverse[j:, j:], upper=True).diagonal()[:size]
            costs = (w[:16, j : j + size] / upper).square()
            assert kind.family is not None
            assert torch.equal(kind.family.best(costs.float(), kind.kept), codes)
        return pruned[:, j]

    w, loss = eliminate(weight, hessian, prunes)
    assert not chosen
    torch.testing.assert_close(solved.weight.double(), w, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(solved.loss.double(), loss.view(24, 64, 4).sum(2), rtol=1e-2, atol=1e-2)


def test_at_equal_zeros_a_larger_group_loses_less() -> None:
    """8:16 can keep weights that 2:4 cannot, so both solvers leave less error with it."""
    weight, hessian = problem(n=64, k=256, tokens=600)
    factor = inverse_factor(hessian.clone(), 0.01, "linear", pytest.fail)
    pairs = ("8:16", "2:4"), ("6:8", "8:16"), ("12:16", "6:8")
    for kind, other in ((PRUNED[one], PRUNED[two]) for one, two in pairs):
        both = [Projection.everywhere(one, (64, 256), weight.device) for one in (kind, other)]
        found = [solve_rows(weight, hessian, 0.01, "linear", pytest.fail, one)[0] for one in both]
        assert output_error(weight, found[0], hessian) < 0.9 * output_error(weight, found[1], hessian)
        losses = [float(solve_linear(weight, factor, one).loss.sum()) for one in both]
        assert losses[0] < 0.9 * losses[1]


@pytest.mark.parametrize("solve", [solve_group, solve_group_by_obs])
def test_linears_of_a_group_may_have_different_kinds(solve) -> None:
    weight, hessian, allowed = mixed()
    plain = Projection.everywhere(TWO_FOUR, SHAPE, weight.device)
    group = Group({"a": weight, "b": weight * 2, "c": weight}, hessian, 600, 600)
    nothing = Projection.of_tiles(np.zeros((1, 1), np.uint8), SHAPE, SHAPE, weight.device)
    found = solve(group, {"a": allowed, "b": plain, "c": nothing}, None, 0.01, pytest.fail)
    check_kept(found["a"][0])
    assert ((found["b"][0] != 0).view(24, -1, 4).sum(-1) == 2).all()
    assert torch.equal(found["c"][0], weight)
    assert sorted(found["a"][1].by_family()) == ["2:4", "6:8", "n:16"]
    assert sorted(found["b"][1].by_family()) == ["2:4"]


def test_loops_choose_and_keep_as_the_kinds_do() -> None:
    """Scores of few values tie, so the tie rule is tested too."""
    *_, allowed = mixed()
    scores = torch.randint(0, 4, SHAPE, generator=torch.Generator().manual_seed(0)).float()
    codes = allowed.codes(scores)
    sparse, kept = allowed.sparse, allowed.kept
    assert torch.equal(codes.pattern[sparse], patterns_from_scores(scores)[sparse])
    table = torch.from_numpy(PATTERNS.copy())
    found = (table[codes.pattern.long()] | ~sparse[..., None]).view(SHAPE)
    for name in ("n:16", "6:8"):
        assert torch.equal(codes.masks[name], FAMILIES[name].best(scores, kept[name]))
        found &= FAMILIES[name].keep(codes.masks[name])
    assert torch.equal(allowed.keep(codes), found)
    again = Codes.of_families(codes.by_family(), scores.device)
    assert all(torch.equal(again.masks[name], codes.masks[name]) for name in codes.masks)
