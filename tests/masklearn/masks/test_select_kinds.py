"""Selection among several kinds of tiles: a multiple-choice knapsack, exact to one step."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masklearn.base.errors import UsageError
from masklearn.masks.budget import Budget, check_reachable
from masklearn.masks.kinds.table import BY_CODE, PRUNED, TWO_FOUR
from masklearn.masks.select import select, tile_savings

EIGHT, TEN, TWELVE = PRUNED["8:16"], PRUNED["10:16"], PRUNED["12:16"]
ALL = (TWO_FOUR, EIGHT, TEN, TWELVE)


def problem(seed: int, tiles: int = 6):
    random = np.random.default_rng(seed)
    areas = {"a": random.choice([1024, 2048], (1, tiles - 2)), "b": random.choice([1024, 4096], (2, 1))}
    # Cheaper for kinds that keep more, most of the time, so that some kinds lie off the hull.
    scores = {
        name: {kind: (random.random(grid.shape) + 0.1) * kind.zeros**2 * grid for kind in ALL}
        for name, grid in areas.items()
    }
    return areas, scores


def every_choice(areas, scores, unit):
    """(saving, cost) of every way to give each tile one kind or none."""
    tiles = [(name, at) for name, grid in areas.items() for at in np.ndindex(grid.shape)]
    options = [
        [(0.0, 0.0)]
        + [(float(tile_savings(kind, areas[name], unit)[at]), float(scores[name][kind][at])) for kind in ALL]
        for name, at in tiles
    ]
    return np.array([np.sum(choice, axis=0) for choice in itertools.product(*options)])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("per_weight", [1.2, 1.45, 1.8])
def test_no_choice_that_saves_as_much_costs_less(seed: int, per_weight: float) -> None:
    areas, scores = problem(seed)
    total = sum(int(grid.sum()) for grid in areas.values())
    budget = Budget.of_bytes(per_weight, total)
    (fill,) = select(scores, areas, budget).fills
    choices = every_choice(areas, scores, "bytes")
    as_much = choices[:, 0] >= fill.saved - 1e-6
    assert choices[as_much, 1].min() == pytest.approx(fill.cost)
    enough = choices[:, 0] >= fill.share.saving - 1e-6
    assert fill.bound <= choices[enough, 1].min() + 1e-9
    assert fill.saved >= fill.share.saving
    widest = max(float(tile_savings(EIGHT, grid, "bytes").max()) for grid in areas.values())
    assert fill.saved - fill.share.saving < widest


@settings(max_examples=30)
@given(st.integers(0, 1000), st.floats(0.0, 0.5))
def test_a_ratio_counts_zeroed_weights_and_is_met_to_half_a_step(seed: int, ratio: float) -> None:
    areas, scores = problem(seed, tiles=12)
    chosen = select(scores, areas, ratio)
    zeroed = sum(
        float(areas[name][kinds == code].sum()) * BY_CODE[code].zeros
        for name, kinds in chosen.kinds.items()
        for code in np.unique(kinds).tolist()
    )
    total = sum(int(grid.sum()) for grid in areas.values())
    assert abs(zeroed - ratio * total) <= 4096 / 4
    assert chosen.fills[0].saved == pytest.approx(zeroed)


def test_the_two_extremes() -> None:
    areas, scores = problem(1)
    assert not any(kinds.any() for kinds in select(scores, areas, 0.0).kinds.values())
    halves = {TWO_FOUR.code, EIGHT.code}
    assert all({*kinds.ravel().tolist()} <= halves for kinds in select(scores, areas, 0.5).kinds.values())


def test_kinds_may_differ_between_linears_and_costs_may_be_given() -> None:
    areas = {"a": np.full((1, 2), 1024), "b": np.full((1, 2), 1024)}
    scores = {"a": {TWO_FOUR: np.array([[1.0, 9.0]])}, "b": {EIGHT: np.array([[2.0, 8.0]])}}
    chosen = select(scores, areas, 0.25)
    assert {name: kinds.tolist() for name, kinds in chosen.kinds.items()} == {
        "a": [[TWO_FOUR.code, 0]], "b": [[EIGHT.code, 0]]
    }  # fmt: skip
    assert chosen["a"].tolist() == [[True, False]]  # the map of 2:4 tiles
    assert chosen["b"].tolist() == [[False, False]]
    times = {"a": {TWO_FOUR: np.array([[0.0, 1.0]])}, "b": {EIGHT: np.array([[0.5, 0.5]])}}
    chosen = select(scores, areas, Budget.saving(1.5, "µs"), times)
    assert {name: kinds.tolist() for name, kinds in chosen.kinds.items()} == {
        "a": [[0, TWO_FOUR.code]], "b": [[EIGHT.code, 0]]
    }  # fmt: skip


def test_a_tile_steps_on_from_a_kind_that_keeps_more() -> None:
    """12:16 first, then 8:16; 10:16 lies above the line between them."""
    areas = {"a": np.full((1, 1), 1000)}
    scores = {"a": {TWELVE: np.array([[1.0]]), TEN: np.array([[7.0]]), EIGHT: np.array([[10.0]])}}
    found = [int(select(scores, areas, ratio).kinds["a"][0, 0]) for ratio in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert found == [0, TWELVE.code, TWELVE.code, EIGHT.code, EIGHT.code]


def test_a_ratio_that_the_kinds_do_not_reach_is_refused() -> None:
    kinds = {"a": (TWELVE,), "b": (TWO_FOUR, TWELVE)}
    check_reachable(Budget.of(0.375), {"a": (64, 64), "b": (64, 64)}, kinds)
    with pytest.raises(
        UsageError, match=r"A ratio of 0.4 cannot be reached.*it is 0.375; the kinds are 12:16, 2:4"
    ):
        check_reachable(Budget.of(0.4), {"a": (64, 64), "b": (64, 64)}, kinds)
    with pytest.raises(UsageError, match=r"A ratio of 0.3 in a cannot be reached"):
        check_reachable(Budget.of("b=0.5,a=0.3"), {"a": (64, 64), "b": (64, 64)}, kinds)
