"""Weight types that are chosen with the kinds of tiles: least loss for a saving."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from masklearn.choice.goal import OWN_BYTES, Goal, check_bytes
from masklearn.choice.losses import Losses, RoundingLoss
from masklearn.choice.price import Choice
from masklearn.choice.select import select, tile_savings
from masklearn.choice.solve import by_goal
from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import DENSE, PRUNED, TWO_FOUR
from masklearn.masks.tiles import tile_weights
from masklearn.quant.table import FLOAT16, INT4, INT8, W8A8, WeightType
from tests.refusals import refused

TILE = (64, 64)
SHAPES = {"q": (128, 128), "k": (64, 128), "up": (256, 128), "down": (128, 256)}
ALL = (FLOAT16, INT8, INT4)
OPTIONS = dict.fromkeys(SHAPES, ALL)
KINDS: tuple[TileKind, ...] = (TWO_FOUR, PRUNED["12:16"])
Grids = dict[str, Any]


def chosen(per_weight: float, losses: Losses, options: dict[str, tuple[WeightType, ...]] = OPTIONS) -> Choice:
    weights = sum(int(grid.sum()) for grid in losses.areas.values())
    return by_goal(Goal.of_bytes(per_weight, weights, OWN_BYTES), options)(losses)


def problem(seed: int) -> tuple[Grids, Grids, dict[str, RoundingLoss]]:
    """Scores, areas and losses. q and k have one input."""
    rng = np.random.default_rng(seed)
    areas = {name: tile_weights(shape, TILE) for name, shape in SHAPES.items()}
    scores: Grids = {}
    for name, grid in areas.items():
        loss = rng.lognormal(sigma=2.0, size=grid.shape)
        scores[name] = {TWO_FOUR: loss, PRUNED["12:16"]: loss * rng.uniform(0.1, 0.4, grid.shape)}
    rounding = {}
    for name in SHAPES:
        most = float(scores[name][TWO_FOUR].sum())
        lost = {INT8: most * rng.uniform(1e-4, 1e-2), INT4: most * rng.uniform(0.05, 0.5)}
        rounding[name] = RoundingLoss(lost, "q" if name == "k" else name)
    return scores, areas, rounding


def taken(
    kinds: Grids, types: dict[str, WeightType], scores: Grids, areas: Grids, rounding: dict[str, RoundingLoss]
) -> tuple[float, float]:
    """Returns bytes per weight, and the loss."""
    size = lost = 0.0
    for name, kind in types.items():
        lost += rounding[name].by_type.get(kind, 0.0)
        for tiles in (DENSE, *KINDS):
            here = kinds[name] == tiles.code
            size += float(areas[name][here].sum()) * tiles.bytes_of(kind)
            lost += float(scores[name][tiles][here].sum()) if tiles is not DENSE else 0.0
    return size / sum(int(grid.sum()) for grid in areas.values()), lost


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("per_weight", [1.7, 1.1, 0.8, 0.5])
def test_no_other_choice_of_types_loses_much_less(seed: int, per_weight: float) -> None:
    """Every choice of types is tried, each with the tiles that lose least."""
    scores, areas, rounding = problem(seed)
    found = chosen(per_weight, Losses(scores, areas, rounding))
    types = dict(found.types)
    size, lost = taken(found.tiles.kinds, types, scores, areas, rounding)
    assert lost == pytest.approx(found.loss)
    assert found.bound is not None and found.bound <= lost * (1 + 1e-12)
    assert size <= per_weight + 1e-9
    assert types["q"] is types["k"]  # one input, one product
    assert found.goal.unit.startswith("bytes")
    best = np.inf
    total = sum(int(grid.sum()) for grid in areas.values())
    for q, up, down in itertools.product(ALL, repeat=3):
        other = {"q": q, "k": q, "up": up, "down": down}
        dense = sum((2 - DENSE.bytes_of(other[name])) * areas[name].sum() for name in SHAPES)
        savings = {
            name: {kind: tile_savings(kind, areas[name], OWN_BYTES, other[name]) for kind in KINDS}
            for name in SHAPES
        }
        missing = max(0.0, (2 - per_weight) * total - dense)
        most = sum(np.max(list(one.values()), axis=0).sum() for one in savings.values())
        if missing > most:
            continue
        kinds = select(scores, areas, Goal.saving(missing, "B"), savings).kinds
        best = min(best, taken(kinds, other, scores, areas, rounding)[1])
    assert lost <= best * 1.1 + 1e-9


def test_a_linear_keeps_to_what_it_may_have() -> None:
    scores, areas, rounding = problem(1)
    options = OPTIONS | {"down": (FLOAT16, INT8), "k": (INT8,)}
    del rounding["k"]  # nothing to choose
    found = chosen(0.8, Losses(scores, areas, rounding), options)
    assert found.types["k"] is INT8 and found.types["down"] in (FLOAT16, INT8)


def test_a_type_gets_no_kind_without_kernels() -> None:
    scores, areas, rounding = problem(2)
    options = dict.fromkeys(SHAPES, (W8A8,))
    found = chosen(0.7, Losses(scores, areas, rounding), options)
    assert all(set(np.unique(kinds)) <= {DENSE.code, TWO_FOUR.code} for kinds in found.tiles.kinds.values())
    with refused():
        check_bytes(0.6, OWN_BYTES, SHAPES, dict.fromkeys(SHAPES, KINDS), options)


def test_6_8_tiles_have_w8a8_weights() -> None:
    """They hardly lose here, and int4 cannot have them."""
    scores, areas, rounding = problem(3)
    for name, grids in scores.items():
        grids[PRUNED["6:8"]] = 1e-3 * grids[TWO_FOUR]
        rounding[name] = RoundingLoss(rounding[name].by_type | {W8A8: 1e-6}, rounding[name].inputs)
    options = dict.fromkeys(SHAPES, (FLOAT16, W8A8, INT4))
    for per_weight in (0.95, 0.7, 0.5):
        found = chosen(per_weight, Losses(scores, areas, rounding), options)
        having = {name for name, kinds in found.tiles.kinds.items() if (kinds == PRUNED["6:8"].code).any()}
        assert all(found.types[name] is W8A8 for name in having)
        assert having or per_weight < 0.9


def test_bytes_below_all_types_and_kinds_are_refused() -> None:
    kinds = dict.fromkeys(SHAPES, KINDS)
    with refused():
        check_bytes(0.3, OWN_BYTES, SHAPES, kinds, OPTIONS)
    check_bytes(0.4063, OWN_BYTES, SHAPES, kinds, OPTIONS)


@pytest.mark.parametrize("rows", [64, 960, 3648, 4672])
def test_the_least_bytes_are_reached(rows: int) -> None:
    """They are not dyadic numbers, so sums of them round."""
    shapes = {"a": (rows, 128), "b": (128, 192)}
    options = {"a": (FLOAT16, INT8, INT4), "b": (FLOAT16,)}
    areas = {name: tile_weights(shape, TILE) for name, shape in shapes.items()}
    scores = {name: {TWO_FOUR: np.ones(grid.shape)} for name, grid in areas.items()}
    parts = {"a": TWO_FOUR.bytes_of(INT4), "b": TWO_FOUR.bytes_of(FLOAT16)}
    weights = {name: float(grid.sum()) for name, grid in areas.items()}
    least = sum(parts[name] * weights[name] for name in parts) / sum(weights.values())
    check_bytes(least, OWN_BYTES, shapes, dict.fromkeys(shapes, (TWO_FOUR,)), options)
    losses = Losses(scores, areas, {"a": RoundingLoss({INT8: 1.0, INT4: 2.0}, "a")})
    found = chosen(least, losses, options)
    assert found.types == {"a": INT4, "b": FLOAT16}
    assert all((grid == TWO_FOUR.code).all() for grid in found.tiles.kinds.values())


@pytest.mark.parametrize("seed", range(3))
def test_tiles_of_a_pair_have_one_kind(seed: int) -> None:
    """But one pair, at the end of the goal. Linears in no pair, and pairs of different shapes, choose as ever."""
    scores, areas, rounding = problem(seed)
    scores["gate"], areas["gate"] = problem(seed + 3)[0]["up"], areas["up"]
    losses, goal = Losses(scores, areas, rounding), Goal.of_ratio(0.2)
    types = dict.fromkeys(scores, (FLOAT16,))
    chooser = replace(by_goal(goal, types), pairs=(("gate", "up"), ("q", "k")))
    kinds = chooser(losses).tiles.kinds
    assert (kinds["gate"] != kinds["up"]).sum() <= 1 and len({*kinds["up"].flat}) > 1
    mean = {kind: (scores["gate"][kind] + scores["up"][kind]) / 2 for kind in KINDS}
    expected = by_goal(goal, types)(Losses(scores | {"gate": mean, "up": mean}, areas, rounding)).tiles.kinds
    assert all(np.array_equal(kinds[name], expected[name]) for name in kinds)


def test_fewer_bytes_never_lose_less() -> None:
    scores, areas, rounding = problem(0)
    bits, losses = [], []
    for per_weight in (2.0, 1.6, 1.3, 1.0, 0.8, 0.6, 0.45):
        found = chosen(per_weight, Losses(scores, areas, rounding))
        types = dict(found.types)
        bits.append(sum(types[name].bits * areas[name].sum() for name in SHAPES))
        losses.append(taken(found.tiles.kinds, types, scores, areas, rounding)[1])
    assert losses == sorted(losses) and losses[0] == 0.0
    assert bits == sorted(bits, reverse=True) and bits[0] == 4 * bits[-1]
