import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masklearn.errors import PatchCompileError
from masklearn.select import select
from masklearn.tiles import grid_shape, tile_weights

SHAPES = st.tuples(st.integers(1, 60), st.integers(1, 15).map(lambda g: 4 * g))
TILES = st.tuples(st.integers(1, 20), st.integers(1, 5).map(lambda g: 4 * g))


def problem(shapes, tile, seed):
    random = np.random.default_rng(seed)
    weights = {f"l{i}": tile_weights(shape, tile) for i, shape in enumerate(shapes)}
    # Small integers: ties are the rule.
    return {
        name: random.integers(0, 5, grid.shape).astype(np.float32) for name, grid in weights.items()
    }, weights


@settings(max_examples=300)
@given(st.lists(SHAPES, min_size=1, max_size=4), TILES, st.floats(0.0, 0.5), st.integers(0, 1000))
def test_ratio_is_met_to_less_than_a_tile(shapes, tile, ratio, seed) -> None:
    scores, weights = problem(shapes, tile, seed)
    maps = select(scores, weights, ratio)
    total = sum(int(grid.sum()) for grid in weights.values())
    zeroed = sum(int(weights[name][tiles].sum()) for name, tiles in maps.items()) / 2
    assert abs(zeroed - ratio * total) < tile[0] * tile[1]
    assert all(tiles.shape == scores[name].shape and tiles.dtype == bool for name, tiles in maps.items())


@given(st.lists(SHAPES, min_size=1, max_size=4), TILES, st.integers(0, 1000))
def test_the_ends_are_exact(shapes, tile, seed) -> None:
    scores, weights = problem(shapes, tile, seed)
    assert not any(tiles.any() for tiles in select(scores, weights, 0.0).values())
    assert all(tiles.all() for tiles in select(scores, weights, 0.5).values())


@given(st.lists(SHAPES, min_size=1, max_size=3), TILES, st.floats(0.0, 0.5), st.integers(0, 1000))
def test_no_dense_tile_is_cheaper_per_weight_than_a_sparse_one(shapes, tile, ratio, seed) -> None:
    scores, weights = problem(shapes, tile, seed)
    maps = select(scores, weights, ratio)
    cost = np.concatenate([(scores[name] / weights[name]).ravel() for name in maps])
    chosen = np.concatenate([tiles.ravel() for tiles in maps.values()])
    if chosen.any() and not chosen.all():
        assert cost[chosen].max() <= cost[~chosen].min()


def test_ragged_tile_ranks_by_cost_per_weight() -> None:
    weights = {"l": tile_weights((8, 12), (8, 8))}  # 64 and 32 weights
    maps = select({"l": np.asarray([[1.0, 0.9]], np.float32)}, weights, 1 / 3)
    assert maps["l"].tolist() == [[True, False]]


def test_ties_go_to_the_first_linear_then_row_then_column() -> None:
    weights = {name: tile_weights((16, 16), (8, 8)) for name in ("a", "b")}
    maps = select({name: np.ones((2, 2), np.float32) for name in weights}, weights, 3 / 16)
    assert maps["a"].tolist() == [[True, True], [True, False]]
    assert not maps["b"].any()


def test_budget_is_global() -> None:
    shapes = {"cheap": (32, 32), "dear": (32, 32)}
    weights = {name: tile_weights(shape, (8, 8)) for name, shape in shapes.items()}
    scores = {
        name: np.full(grid_shape(shape, (8, 8)), 1.0 + (name == "dear")) for name, shape in shapes.items()
    }
    maps = select(scores, weights, 0.25)
    assert maps["cheap"].all()
    assert not maps["dear"].any()


@pytest.mark.parametrize("ratio", [-0.01, 0.51, float("nan")])
def test_ratio_outside_is_refused(ratio: float) -> None:
    with pytest.raises(PatchCompileError, match=r"outside 0 ... 0.5"):
        select({}, {}, ratio)


def test_a_score_that_is_not_a_number_is_ours() -> None:
    with pytest.raises(ValueError, match="score of l is not finite"):
        select({"l": np.asarray([[np.nan]])}, {"l": np.asarray([[16]])}, 0.2)
