import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from masklearn.choice.goal import BYTES, Goal, check_reachable
from masklearn.choice.select import select, tile_savings
from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import BY_CODE, PRUNED, TWO_FOUR
from masklearn.masks.tiles import tile_weights
from tests.refusals import refused

SHAPES = st.tuples(st.integers(1, 60), st.integers(1, 15).map(lambda g: 4 * g))
TILES = st.tuples(st.integers(1, 20), st.integers(1, 5).map(lambda g: 4 * g))


def problem(shapes, tile, seed):
    random = np.random.default_rng(seed)
    weights = {f"l{i}": tile_weights(shape, tile) for i, shape in enumerate(shapes)}
    # small integers, so that ties are common
    return {
        name: random.integers(0, 5, grid.shape).astype(np.float32) for name, grid in weights.items()
    }, weights


@given(st.lists(SHAPES, min_size=1, max_size=4), TILES, st.integers(0, 1000))
def test_the_ends_are_exact(shapes, tile, seed) -> None:
    scores, weights = problem(shapes, tile, seed)
    assert not any(tiles.any() for tiles in select(scores, weights, 0.0).values())
    assert all(tiles.all() for tiles in select(scores, weights, 0.5).values())


@given(st.lists(SHAPES, min_size=1, max_size=3), TILES, st.floats(0.0, 0.5), st.integers(0, 1000))
def test_sparse_tiles_are_the_cheapest_per_weight(shapes, tile, ratio, seed) -> None:
    scores, weights = problem(shapes, tile, seed)
    maps = select(scores, weights, ratio)
    cost = np.concatenate([(scores[name] / weights[name]).ravel() for name in maps])
    chosen = np.concatenate([tiles.ravel() for tiles in maps.values()])
    if chosen.any() and not chosen.all():
        assert cost[chosen].max() <= cost[~chosen].min()


def test_ties_go_to_linear_row_column_order() -> None:
    weights = {name: tile_weights((16, 16), (8, 8)) for name in ("a", "b")}
    maps = select({name: np.ones((2, 2), np.float32) for name in weights}, weights, 3 / 16)
    assert maps["a"].tolist() == [[True, True], [True, False]]
    assert not maps["b"].any()


def test_a_nan_score_is_an_internal_error() -> None:
    with refused(ValueError):
        select({"l": np.asarray([[np.nan]])}, {"l": np.asarray([[16]])}, 0.2)


@given(st.lists(SHAPES, min_size=1, max_size=4), TILES, st.floats(0.0, 0.5), st.integers(0, 1000))
def test_a_ratio_is_met_to_a_quarter_tile(shapes, tile, ratio, seed) -> None:
    scores, weights = problem(shapes, tile, seed)
    maps = select(scores, weights, ratio)
    zeroed = sum(int(weights[name][tiles].sum()) for name, tiles in maps.items()) / 2
    (fill,) = maps.fills
    assert (fill.saved, fill.tiles) == (zeroed, sum(int(tiles.sum()) for tiles in maps.values()))
    largest = max(int(grid.max()) for grid in weights.values())
    assert abs(zeroed - fill.share.saving) <= largest / 4 + 1e-9
    assert all(tiles.shape == scores[name].shape and tiles.dtype == bool for name, tiles in maps.items())


def brute_force(cost: np.ndarray, saves: np.ndarray, at_least: float) -> float:
    """Least cost of all sets of tiles that save so much, but for the rounding error that `select` allows."""
    sets = itertools.product((False, True), repeat=cost.size)
    picks = np.asarray([pick for pick in sets if saves[list(pick)].sum() >= at_least * (1 - 1e-12)])
    return float((picks @ cost).min())


SMALL = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=8)


@settings(max_examples=200)
@example([(5, 1)], 2.07e-10)
@given(SMALL, st.floats(0.0, 1.0))
def test_a_saving_costs_nearly_the_least(tiles, part: float) -> None:
    """Compared with all subsets, the greedy cost is optimal for its saving, and the bound is below any solution."""
    cost, saves = (np.asarray(column, np.float64) for column in zip(*tiles, strict=True))
    asked = part * saves.sum()
    chosen = select(
        {"l": cost[None]}, {"l": np.ones((1, cost.size), int)}, Goal.saving(asked, "us"), {"l": saves[None]}
    )
    (fill,) = chosen.fills
    picked = chosen["l"][0]
    assert (fill.cost, fill.saved) == (cost[picked].sum(), saves[picked].sum())
    assert not picked[saves == 0].any()
    assert fill.saved >= asked - 1e-9
    assert fill.cost == brute_force(cost, saves, fill.saved)
    best = brute_force(cost, saves, asked)
    assert fill.bound <= best + 1e-9
    assert best <= fill.cost
    assert 0.0 <= fill.cost - fill.bound + 1e-9 <= (cost[picked].max() if picked.any() else 0.0) + 2e-9


def test_a_tile_that_would_cost_time_stays_dense() -> None:
    scores, areas = {"l": np.zeros((1, 3))}, {"l": np.full((1, 3), 64)}
    times = {"l": np.asarray([[-1.0, 0.0, 1.0]])}
    assert select(scores, areas, Goal.saving(1.0, "us"), times)["l"].tolist() == [[False, False, True]]
    with refused():
        select(scores, areas, Goal.saving(1.5, "us"), times)


@settings(max_examples=25, deadline=None)
@example(sizes=[120_000], spread=0.0, seed=24)  # sums of equal savings drift farthest apart
@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=4), st.floats(0.0, 12.0), st.integers(0, 1000))
def test_all_tiles_reach_their_sum_in_any_order(sizes, spread, seed) -> None:
    random = np.random.default_rng(seed)
    times = {
        f"l{i}": random.random() * 10 ** random.uniform(-spread, spread, size) for i, size in enumerate(sizes)
    }
    scores = {name: random.random(grid.size) for name, grid in times.items()}
    every = np.concatenate([*times.values()])
    for asked in (
        sum(float(grid.sum()) for grid in times.values()),
        math.fsum(every),
        every[::-1].cumsum()[-1],
    ):
        maps = select(
            scores,
            {name: np.ones(grid.size) for name, grid in times.items()},
            Goal.saving(asked, "us"),
            times,
        )
        assert sum(float(times[name][~tiles].sum()) for name, tiles in maps.items()) <= 1e-10 * asked


def test_a_unit_without_costs_is_ours() -> None:
    with refused(ValueError):
        select({"l": np.ones((1, 1))}, {"l": np.ones((1, 1))}, Goal.saving(1.0, "us"))


@given(
    st.lists(SHAPES, min_size=3, max_size=4),
    TILES,
    st.floats(0.0, 0.5),
    st.floats(0.0, 0.5),
    st.integers(0, 9),
)
def test_each_pattern_has_its_own_ranking(shapes, tile, first, second, seed) -> None:
    scores, weights = problem(shapes, tile, seed)
    maps = select(scores, weights, Goal.of_ratio(f"*={first},l0={second}"))
    others = [name for name in scores if name != "l0"]
    alone = [
        select({"l0": scores["l0"]}, {"l0": weights["l0"]}, second),
        select({name: scores[name] for name in others}, {name: weights[name] for name in others}, first),
    ]
    for part in alone:
        for name, tiles in part.items():
            assert (maps[name] == tiles).all()


@given(st.lists(SHAPES, min_size=1, max_size=4), TILES, st.floats(0.0, 0.5), st.integers(0, 1000))
def test_per_layer_gives_each_linear_the_ratio(shapes, tile, ratio, seed) -> None:
    scores, weights = problem(shapes, tile, seed)
    maps = select(scores, weights, Goal.of_ratio(ratio, per_layer=True))
    for name, tiles in maps.items():
        zeroed = weights[name][tiles].sum() / 2
        assert abs(zeroed - ratio * weights[name].sum()) <= weights[name].max() / 4 + 1e-9
        assert (tiles == select({name: scores[name]}, {name: weights[name]}, ratio)[name]).all()


EIGHT, TWELVE = PRUNED["8:16"], PRUNED["12:16"]
TEN = TileKind("10:16", 4, EIGHT.family, 10)  # in no table: its savings lie between those of the two
ALL = (TWO_FOUR, EIGHT, TEN, TWELVE)


def of_kinds(seed: int, tiles: int = 6):
    random = np.random.default_rng(seed)
    areas = {"a": random.choice([1024, 2048], (1, tiles - 2)), "b": random.choice([1024, 4096], (2, 1))}
    # Cheaper for kinds that keep more, most of the time, so that some kinds lie off the hull.
    scores = {
        name: {kind: (random.random(grid.shape) + 0.1) * kind.zeros**2 * grid for kind in ALL}
        for name, grid in areas.items()
    }
    return areas, scores


def every_choice(areas, scores, unit):
    """(saving, cost) of every way to give each tile a kind or none."""
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
    areas, scores = of_kinds(seed)
    total = sum(int(grid.sum()) for grid in areas.values())
    goal = Goal.of_bytes(per_weight, total, BYTES)
    (fill,) = select(scores, areas, goal).fills
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
def test_a_ratio_is_met_to_half_a_step(seed: int, ratio: float) -> None:
    areas, scores = of_kinds(seed, tiles=12)
    chosen = select(scores, areas, ratio)
    zeroed = sum(
        float(areas[name][kinds == code].sum()) * {**BY_CODE, TEN.code: TEN}[code].zeros
        for name, kinds in chosen.kinds.items()
        for code in np.unique(kinds).tolist()
    )
    total = sum(int(grid.sum()) for grid in areas.values())
    assert abs(zeroed - ratio * total) <= 4096 / 4
    assert chosen.fills[0].saved == pytest.approx(zeroed)


def test_linears_may_differ_in_kinds_and_costs() -> None:
    areas = {"a": np.full((1, 2), 1024), "b": np.full((1, 2), 1024)}
    scores = {"a": {TWO_FOUR: np.array([[1.0, 9.0]])}, "b": {EIGHT: np.array([[2.0, 8.0]])}}
    chosen = select(scores, areas, 0.25)
    assert {name: kinds.tolist() for name, kinds in chosen.kinds.items()} == {
        "a": [[TWO_FOUR.code, 0]], "b": [[EIGHT.code, 0]]
    }  # fmt: skip
    assert chosen["a"].tolist() == [[True, False]]  # the map of 2:4 tiles
    assert chosen["b"].tolist() == [[False, False]]
    times = {"a": {TWO_FOUR: np.array([[0.0, 1.0]])}, "b": {EIGHT: np.array([[0.5, 0.5]])}}
    chosen = select(scores, areas, Goal.saving(1.5, "µs"), times)
    assert {name: kinds.tolist() for name, kinds in chosen.kinds.items()} == {
        "a": [[0, TWO_FOUR.code]], "b": [[EIGHT.code, 0]]
    }  # fmt: skip


def test_ratios_beyond_the_kinds_are_refused() -> None:
    kinds = {"a": (TWELVE,), "b": (TWO_FOUR, TWELVE)}
    check_reachable(Goal.of_ratio(0.375), {"a": (64, 64), "b": (64, 64)}, kinds)
    with refused():
        check_reachable(Goal.of_ratio(0.4), {"a": (64, 64), "b": (64, 64)}, kinds)
    with refused():
        check_reachable(Goal.of_ratio("b=0.5,a=0.3"), {"a": (64, 64), "b": (64, 64)}, kinds)


@pytest.mark.parametrize("ratio", [-0.01, 0.51, float("nan")])
def test_ratio_outside_is_refused(ratio: float) -> None:
    with refused():
        select({}, {}, ratio)
