"""The table of kinds, and masks of one linear that have several of them."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from masklearn.choice.menu import (
    AUTO_KINDS,
    allowed_kinds,
    left_out_of_auto,
    only_two_four,
    parse_kinds,
    spell_kinds,
)
from masklearn.masks.kinds.base import Family
from masklearn.masks.kinds.table import (
    BY_CODE,
    DENSE,
    FAMILIES,
    KINDS,
    PRUNED,
    TWO_FOUR,
    kind_named,
)
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.nm_codes import KEPT_POSITIONS, PATTERNS, patterns_from_scores
from masklearn.quant.table import FLOAT16, INT4, INT8, W8A8, WEIGHT_TYPES, WeightType
from masklearn.recipe import LearnRecipe
from tests.refusals import refused


def test_kind_codes_and_names_are_fixed() -> None:
    """Mask files hold the codes, so no later table may give one another meaning."""
    assert {kind.code: kind.name for kind in KINDS} == {
        0: "dense", 1: "2:4", 2: "8:16", 3: "12:16", 8: "6:8"
    }  # fmt: skip


def test_bytes_and_zeros() -> None:
    found = {kind.name: (kind.bytes_per_weight, kind.zeros) for kind in KINDS}
    assert found["dense"] == (2.0, 0.0)
    assert found["2:4"] == found["8:16"] == (1.125, 0.5)
    assert found["12:16"] == (1.625, 0.25)
    assert found["6:8"] == (1.6875, 0.25)
    # A slab of 64 columns has 60 bytes a row, of dense 64 and of 2:4 40.
    assert [64 * PRUNED[name].bytes_of(W8A8) for name in ("2:4", "6:8")] == [40, 60]


def test_other_kinds_are_refused() -> None:
    with refused(ValueError):
        kind_named("9:16")


def mixed(rng: np.random.Generator, shape: tuple[int, int] = (24, 192)) -> LinearMask:
    kinds = rng.choice([0, 1, 2, 3, 8], (2, 3)).astype(np.uint8)
    kinds[0] = 1, 2, 8  # each family in one linear
    scores = rng.random(shape)
    kept = np.full((2, 3), 16, np.uint8)
    for code in (2, 3):
        kept[kinds == code] = BY_CODE[code].kept
    groups = np.repeat(np.repeat(kept, 4, axis=1), 16, axis=0)[:24]
    codes = {
        "2:4": FAMILIES["2:4"].best(scores, 2),
        "n:16": FAMILIES["n:16"].best(scores, groups),
        "6:8": FAMILIES["6:8"].best(scores, 6),
    }
    return LinearMask.from_codes(shape, (16, 64), kinds, codes)


@pytest.mark.parametrize("seed", range(5))
def test_mixed_masks_keep_what_each_tile_keeps(seed: int) -> None:
    mask = mixed(np.random.default_rng(seed))
    keep = mask.keep()
    for i, j in np.ndindex(mask.kinds.shape):
        kind = BY_CODE[int(mask.kinds[i, j])]
        tile = keep[16 * i : 16 * i + 16, 64 * j : 64 * j + 64]
        if kind.family is None:
            assert tile.all()
        else:
            assert (kind.family.groups(tile).sum(-1) == kind.kept).all()
    assert mask.zeroed == int((~keep).sum())
    assert sum(mask.by_kind().values()) == mask.weights
    assert (mask.tiles == (mask.kinds == TWO_FOUR.code)).all()
    eight = np.repeat(np.repeat(mask.kinds == PRUNED["6:8"].code, 8, axis=1), 16, axis=0)[:24]
    codes = mask.masks_of_eight()
    assert (np.bitwise_count(codes) == np.where(eight, 6, 8)).all()
    assert (keep.reshape(24, 24, 8)[eight] == FAMILIES["6:8"].keep(codes[eight][:, None])).all()


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"others": np.array([[2]], np.uint8)}, id="groups are n:16"),
        pytest.param({"others": np.array([[9]], np.uint8)}, id="kind 9 is not in the table"),
        pytest.param({"others": np.array([[1]], np.uint8)}, id="among the kinds that are not"),
        pytest.param({"others": np.array([[2, 2]], np.uint8)}, id="for"),
        pytest.param({"shape": (2, 32), "others": np.array([[2]], np.uint8)}, id="multiples of 64"),
        pytest.param({"mask16": np.zeros(3, np.uint16)}, id="0 groups are n:16"),
        pytest.param(
            {"others": np.array([[2]], np.uint8), "mask16": np.full(8, 7, np.uint16)}, id="keeps 3 weights"
        ),
        pytest.param({"others": np.array([[8]], np.uint8)}, id="16 groups are 6:8"),
        pytest.param({"mask8": np.zeros(3, np.uint8)}, id="0 groups are 6:8"),
        pytest.param({"mask8": np.zeros(0, np.uint16)}, id="a type of 16 bits"),
        pytest.param(
            {"others": np.array([[8]], np.uint8), "mask8": np.full(16, 31, np.uint8)}, id="keeps 5 weights"
        ),
        pytest.param({"shape": (2, 52), "others": np.array([[8]], np.uint8)}, id="multiples of 8"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changed: dict[str, object]) -> None:
    given = {
        "shape": (2, 64),
        "tile": (2, 64),
        "tiles": np.zeros((1, 1), np.bool_),
        "pattern": np.zeros(0, np.uint8),
    }
    with refused(ValueError):
        LinearMask(**(given | changed))  # type: ignore[arg-type]


SHAPES = {"layers.0.mlp.up": (96, 64), "layers.0.mlp.down": (64, 192), "layers.0.q": (64, 48)}


def allowed(text: str, tile: tuple[int, int] = (64, 64)) -> dict[str, str]:
    return {
        name.rpartition(".")[2]: " ".join(map(str, kinds))
        for name, kinds in allowed_kinds(text, SHAPES, tile).items()
    }


def test_the_default_is_2_4_everywhere() -> None:
    assert allowed(LearnRecipe().kinds) == {"up": "2:4", "down": "2:4", "q": "2:4"}


def test_each_value_belongs_to_its_pattern() -> None:
    text = "mlp.*=8:16,12:16,q=2:4"
    assert allowed(text) == {"up": "8:16 12:16", "down": "8:16 12:16", "q": "2:4"}
    assert allowed("mlp.up=12:16") == {"up": "12:16", "down": "2:4", "q": "2:4"}
    assert allowed("re:.*(up|down)=8:16") == {"up": "8:16", "down": "8:16", "q": "2:4"}
    assert allowed("12:16,q=2:4") == {"up": "12:16", "down": "12:16", "q": "2:4"}


IN_16_BITS = tuple(kind for kind in AUTO_KINDS if kind.goes_with(FLOAT16))


def test_auto_leaves_out_what_does_not_fit() -> None:
    every = " ".join(map(str, IN_16_BITS))
    assert allowed("auto") == {"up": every, "down": every, "q": "2:4"}
    assert allowed("auto", (64, 32)) == {"up": "2:4", "down": "2:4", "q": "2:4"}
    assert allowed("auto", (64, 1 << 20)) == {"up": every, "down": every, "q": "2:4"}


def test_what_auto_leaves_out_is_said() -> None:
    (line,) = left_out_of_auto("auto", SHAPES, (64, 64))
    assert line.startswith("kinds: auto leaves 8:16, 12:16 out in 1 of 3 linears, such as layers.0.q:")
    assert "in 3 of 3 linears" in next(left_out_of_auto("auto", SHAPES, (64, 32)))
    for text in ("2:4", "mlp.*=auto", "mlp.*=8:16"):
        assert not list(left_out_of_auto(text, SHAPES, (64, 64)))


def test_a_named_kind_must_fit() -> None:
    with refused():
        allowed("8:16")
    with refused():
        allowed("mlp.*=8:16", (64, 32))
    with refused():
        allowed("attention=8:16")


def test_each_type_has_its_kinds() -> None:
    """n:16 is for inputs of 16 bits, and 6:8 for inputs of 8 bits."""
    of_sixteen = [kind for kind in KINDS if kind.family is FAMILIES["n:16"]]
    for weights in WEIGHT_TYPES.values():
        kinds = [kind for kind in KINDS if kind.goes_with(weights)]
        assert kinds == [DENSE, TWO_FOUR, *([PRUNED["6:8"]] if weights is W8A8 else of_sixteen)]


def test_auto_takes_what_goes_with_w8a8() -> None:
    types = {"layers.0.mlp.up": (W8A8,), "layers.0.mlp.down": (FLOAT16, INT8, W8A8), "layers.0.q": (W8A8,)}
    kinds = allowed_kinds("auto", SHAPES, (64, 64), types)
    assert kinds == {
        "layers.0.mlp.up": (TWO_FOUR, PRUNED["6:8"]),
        "layers.0.mlp.down": AUTO_KINDS,
        "layers.0.q": (TWO_FOUR, PRUNED["6:8"]),
    }
    (line,) = left_out_of_auto("auto", SHAPES, (64, 64), types)
    assert line == (
        "kinds: auto leaves 8:16, 12:16 out in 2 of 3 linears, such as layers.0.mlp.up: tiles of type w8a8 are "
        "dense, 2:4 or 6:8"
    )
    cut, _ = left_out_of_auto("auto", {"q": (64, 52)}, (64, 64), {"q": (W8A8,)})
    assert cut.startswith("kinds: auto leaves 6:8 out in 1 of 1 linears, such as q: K or the columns")


def test_nobody_misses_6_8_in_other_types() -> None:
    for own in ((FLOAT16,), (INT8,), (INT4,), (FLOAT16, INT8, INT4)):
        types = dict.fromkeys(SHAPES, own)
        assert "6:8" not in " ".join(left_out_of_auto("auto", SHAPES, (64, 64), types))
        assert allowed_kinds("auto", SHAPES, (64, 64), types) == allowed_kinds("auto", SHAPES, (64, 64))


def test_n_16_named_for_w8a8_is_refused() -> None:
    names = "2:4,mlp.*=2:4,8:16"
    with refused():
        allowed_kinds(names, SHAPES, (64, 64), {"layers.0.mlp.up": (W8A8,)})
    allowed_kinds(names, SHAPES, (64, 64), {"layers.0.mlp.up": (FLOAT16, W8A8), "layers.0.q": (W8A8,)})


@pytest.mark.parametrize(
    "own",
    [(FLOAT16,), (INT8,), (INT4,), (FLOAT16, INT4)],
    ids=lambda own: ",".join(map(str, own)),
)
def test_6_8_is_for_w8a8_only(own: tuple[WeightType, ...]) -> None:
    with refused():
        allowed_kinds("2:4,mlp.up=2:4,6:8", SHAPES, (64, 64), {"layers.0.mlp.up": own})
    for types in ({"layers.0.mlp.up": (W8A8,)}, {"layers.0.mlp.up": (*own, W8A8, FLOAT16)}, {}):
        kinds = allowed_kinds("2:4,mlp.up=2:4,6:8", SHAPES, (64, 64), types)
        assert kinds["layers.0.mlp.up"] == (TWO_FOUR, PRUNED["6:8"])


def test_allowed_kinds_survive_spelling() -> None:
    kinds = allowed_kinds("auto,mlp.up=2:4", SHAPES, (64, 64))
    assert allowed_kinds(spell_kinds(kinds), SHAPES, (64, 64)) == kinds


@pytest.mark.parametrize(
    "text", ["9:16", "", "dense", "8:16,8:16", "auto,8:16", "=8:16", "mlp.*=", "re:(=8:16"]
)
def test_misspelled_kinds_are_refused(text: str) -> None:
    with refused():
        LearnRecipe.parse({"kinds": text})


@pytest.mark.parametrize("text", ["2:4", "auto", "8:16,12:16", "mlp.*=8:16,12:16,q=2:4", "8:16,q=2:4"])
def test_a_value_is_spelled_one_way(text: str) -> None:
    assert parse_kinds(text) == text == parse_kinds(f" {text.replace(',', ' , ').replace('=', ' = ')} ")
    assert only_two_four(text) == (text == "2:4")


@pytest.mark.parametrize("method", ["patch-joint", "patch-tile", "maskllm"])
def test_a_method_that_trains_learns_2_4_only(method: str) -> None:
    with refused():
        LearnRecipe.parse({"method": method, "kinds": "auto"})
    assert LearnRecipe.parse({"method": method, "kinds": "2:4"}).kinds == "2:4"


SIXTEEN, EIGHT = FAMILIES["n:16"], FAMILIES["6:8"]


def columns_of(group: int) -> list[int]:
    """Columns of a group as in the kernel's picture: the columns of lane t in four steps of 16."""
    slab, t = divmod(group, 4)
    return [
        64 * slab + 16 * step + column
        for step in range(4)
        for column in (2 * t, 2 * t + 1, 2 * t + 8, 2 * t + 9)
    ]


def test_a_group_is_what_a_lane_holds() -> None:
    row = np.arange(192)
    assert SIXTEEN.groups(row).tolist() == [columns_of(group) for group in range(12)]


@settings(max_examples=80)
@given(st.sampled_from([(SIXTEEN, [8, 10, 12, 16]), (EIGHT, [6, 8])]), st.data())
def test_codes_keep_the_highest_scores(kinds: tuple[Family, list[int]], data: st.DataObject) -> None:
    """Of equal scores the lower position. torch gives the same codes."""
    family, counts = kinds
    sides = st.tuples(st.integers(1, 3), st.integers(1, 3).map(lambda spans: spans * family.span))
    # few distinct values, so that ties are common
    scores = data.draw(arrays(np.float32, sides, elements=st.integers(-2, 2).map(float)))
    groups = family.groups(scores)
    kept = data.draw(arrays(np.uint8, groups.shape[:2], elements=st.sampled_from(counts)))
    codes = family.best(scores, kept)
    keep = family.groups(family.keep(codes))
    for at in np.ndindex(codes.shape):
        ranked = sorted(range(family.group), key=lambda i: (-groups[at][i], i))[: kept[at]]
        assert np.flatnonzero(keep[at]).tolist() == sorted(ranked)
        assert codes[at] == sum(1 << i for i in ranked)
    ours = family.best(torch.from_numpy(scores), torch.from_numpy(kept))
    assert codes.dtype == family.stored
    np.testing.assert_array_equal(ours.numpy(), codes)
    np.testing.assert_array_equal(family.groups(family.keep(ours)).numpy(), keep)
    family.check(codes.ravel(), kept.ravel())


def slow_code(group: tuple[float, ...]) -> int:
    """Pattern by sorting scores, ties to the lower index."""
    order = sorted(range(4), key=lambda i: (-group[i], i))
    return KEPT_POSITIONS.index((min(order[:2]), max(order[:2])))


def test_six_patterns_in_lexicographic_order() -> None:
    kept = [tuple(np.flatnonzero(pattern).tolist()) for pattern in PATTERNS]
    assert kept == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)] == list(KEPT_POSITIONS)
    assert PATTERNS.shape == (6, 4)


def test_every_order_and_tie_of_four() -> None:
    groups = list(itertools.product(range(4), repeat=4))
    scores = np.asarray(groups, np.float32).reshape(1, -1)
    codes = patterns_from_scores(scores)
    assert codes.dtype == np.uint8
    assert codes[0].tolist() == [slow_code(group) for group in groups]
    of_torch = patterns_from_scores(torch.from_numpy(scores))
    assert of_torch.dtype == torch.uint8 and of_torch.tolist() == codes.tolist()
