import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from masklearn.base.shard import Shard
from masklearn.masks.kinds.table import FAMILIES
from masklearn.masks.linear_mask import LinearMask, kept_per_group
from masklearn.masks.maskset import MaskSet
from masklearn.masks.nm_codes import PATTERNS
from masklearn.masks.record import MaskRecord
from masklearn.masks.tiles import grid_shape
from masklearn.quant.grid import Grid, storable
from masklearn.quant.table import INT4, INT8, W8A8
from tests.refusals import refused

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 12).map(lambda g: 4 * g))
TILES = st.tuples(st.integers(1, 20), st.integers(1, 5).map(lambda g: 4 * g))
ORIGIN: dict[str, Any] = {
    "method": "wanda", "seed": 3, "base_model": "tiny", "base_sha256": "ab" * 32, "ratio_asked": 0.3
}  # fmt: skip


def random_mask(shape: tuple[int, int], tile: tuple[int, int], seed: int) -> LinearMask:
    random = np.random.default_rng(seed)
    tiles = random.random(grid_shape(shape, tile)) < 0.5
    return LinearMask.from_candidate(
        tile, tiles, random.integers(0, 6, (shape[0], shape[1] // 4)).astype(np.uint8)
    )


def known_mask() -> LinearMask:
    """A mask of 6x16 in 4x8 tiles: a 2x2 grid with a ragged last row, sparse at the top right and the bottom left."""
    tiles = np.asarray([[False, True], [True, False]])
    pattern = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) % 6
    return LinearMask.from_candidate((4, 8), tiles, pattern)


@given(SHAPES, TILES, st.integers(0, 1000))
def test_keep_weight_by_weight(shape: tuple[int, int], tile: tuple[int, int], seed: int) -> None:
    random = np.random.default_rng(seed)
    tiles = random.random(grid_shape(shape, tile)) < 0.5
    pattern = random.integers(0, 6, (shape[0], shape[1] // 4)).astype(np.uint8)
    mask = LinearMask.from_candidate(tile, tiles, pattern)
    keep = mask.keep()
    for n, k in np.ndindex(shape):
        sparse = tiles[n // tile[0], k // tile[1]]
        assert keep[n, k] == (not sparse or PATTERNS[pattern[n, k // 4], k % 4])
    assert mask.zeroed == (~keep).sum()


def test_file_bytes(tmp_path: Path) -> None:
    MaskSet({"m.q": known_mask()}, **ORIGIN).save(tmp_path / "masks.safetensors")
    arrays = load_file(tmp_path / "masks.safetensors")
    # Row-major map 0,1,1,0, first tile in the lowest bit.
    assert arrays["m.q.tiles"].tobytes() == bytes([0b0110])
    # Two codes per byte, the first in the low nibble.
    assert arrays["m.q.pattern"].tobytes() == bytes([0x32, 0x10, 0x54, 0x32, 0x54, 0x32])
    meta = Shard.open(tmp_path / "masks.safetensors").metadata
    assert json.loads(meta["linears"]) == {"m.q": {"shape": [6, 16], "tile": [4, 8]}}
    assert (meta["version"], meta["method"], meta["seed"]) == ("1", "wanda", "3")
    assert (float(meta["ratio_asked"]), float(meta["ratio"])) == (0.3, 0.25)
    assert (meta["base_model"], meta["base_sha256"]) == ("tiny", "ab" * 32)


def test_nine_tiles_and_an_odd_number_of_groups(tmp_path: Path) -> None:
    tiles = np.zeros((3, 3), np.bool_)
    tiles[0, 0] = tiles[2, 2] = tiles[1, 0] = True
    mask = LinearMask.from_candidate((1, 4), tiles, np.asarray([[5, 0, 0], [3, 0, 0], [0, 0, 1]], np.uint8))
    MaskSet({"l": mask}, **ORIGIN).save(tmp_path / "m")
    arrays = load_file(tmp_path / "m")
    assert arrays["l.tiles"].tobytes() == bytes([0b00001001, 0b1])
    assert arrays["l.pattern"].tobytes() == bytes([0x35, 0x01])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(SHAPES, TILES), max_size=4), st.integers(0, 1000))
def test_round_trip(tmp_path: Path, linears: list[Any], seed: int) -> None:
    masks = {f"layers.{i}.q": random_mask(*linear, seed + i) for i, linear in enumerate(linears)}
    made = MaskSet(masks, record=MaskRecord(skipped={"head": "é"}, weights="5af5"), **ORIGIN)
    made.save(tmp_path / "masks.safetensors")
    loaded = MaskSet.load(tmp_path / "masks.safetensors")
    assert sorted(loaded) == sorted(made)
    assert (loaded.ratio, loaded.zeroed, loaded.weights) == (made.ratio, made.zeroed, made.weights)
    assert {key: getattr(loaded, key) for key in ORIGIN} == ORIGIN
    assert loaded.record == made.record
    assert loaded.shapes() == made.shapes()
    for name, mask in masks.items():
        np.testing.assert_array_equal(loaded[name].keep(), mask.keep())
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "masks.safetensors").read_bytes()


def test_ratio_counts_by_pattern_over_all_linears() -> None:
    dense = LinearMask.from_candidate((4, 4), np.zeros((1, 1), np.bool_), np.zeros((4, 1), np.uint8))
    masks = MaskSet({"a": known_mask(), "b": dense}, **ORIGIN)
    assert masks.ratio == 24 / (96 + 16)
    assert MaskSet({}, **ORIGIN).ratio == 0.0


def test_check_covers() -> None:
    masks = MaskSet({"a": known_mask(), "b": known_mask()}, **ORIGIN)
    masks.check_covers({"b": (6, 16), "a": (6, 16)})
    with refused():
        masks.check_covers({"a": (6, 16), "c": (6, 16)})
    with refused():
        masks.check_covers({"a": (6, 20), "b": (6, 16)})
    with refused():
        masks.check_covers({"a": (6, 16), "b": (6, 16), **{f"x{i}": (4, 4) for i in range(10)}})


@pytest.mark.parametrize(
    ("tile", "tiles", "pattern"),
    [
        ((4, 6), np.ones((1, 1), np.bool_), np.zeros(4, np.uint8)),
        ((4, 8), np.ones((2, 1), np.bool_), np.zeros(8, np.uint8)),
        ((4, 8), np.ones((1, 1), np.uint8), np.zeros(8, np.uint8)),
        ((4, 8), np.ones((1, 1), np.bool_), np.zeros(7, np.uint8)),
        ((4, 8), np.ones((1, 1), np.bool_), np.full(8, 6, np.uint8)),
    ],
)
def test_parts_that_do_not_fit_are_refused(tile, tiles, pattern) -> None:
    with refused(ValueError):
        LinearMask((4, 8), tile, tiles, pattern)


def mixed_mask(seed: int = 0) -> LinearMask:
    """A mask of 24x192 in 16x64 tiles with every family, a ragged last row, and more than one count of n:16."""
    random = np.random.default_rng(seed)
    kinds = np.asarray([[1, 2, 3], [0, 2, 1]], np.uint8)
    kept = kept_per_group(kinds, (24, 192), (16, 64), "n:16")
    scores = random.random((24, 192))
    codes = {"2:4": FAMILIES["2:4"].best(scores, 2), "n:16": FAMILIES["n:16"].best(scores, kept)}
    return LinearMask.from_codes((24, 192), (16, 64), kinds, codes)


def test_files_hold_other_kinds(tmp_path: Path) -> None:
    MaskSet({"a": mixed_mask(), "b": known_mask()}, **ORIGIN).save(tmp_path / "m")
    arrays = load_file(tmp_path / "m")
    assert sorted(arrays) == ["a.kinds", "a.mask16", "a.pattern", "b.kinds", "b.mask16", "b.pattern"]
    assert arrays["a.kinds"].tolist() == [[1, 2, 3], [0, 2, 1]]
    # Groups of 16 of the tiles of kinds 2 and 3 (16 rows each) and 2 (8 rows), with 64 / 16 = 4 groups in a row of a tile.
    assert arrays["a.mask16"].dtype == np.uint16
    assert arrays["a.mask16"].shape == ((16 + 16 + 8) * 4,)
    assert {kind.name: n for kind, n in MaskSet.load(tmp_path / "m").by_kind().items()} == {
        "dense": 8 * 64 + 48, "2:4": 24 * 64 + 48, "8:16": 1536, "12:16": 1024
    }  # fmt: skip


def with_eights() -> MaskSet:
    """Two linears of w8a8, the first with tiles of 6:8 in a ragged grid of 24x40."""
    kinds = np.asarray([[1, 8, 8], [8, 0, 1]], np.uint8)
    scores = np.random.default_rng(0).random((24, 40))
    codes = {family: FAMILIES[family].best(scores, 6) for family in ("2:4", "6:8")}
    masks = {"a": LinearMask.from_codes((24, 40), (16, 16), kinds, codes), "b": known_mask()}
    grids = {
        name: Grid(W8A8, np.linspace(0, 1, one.shape[0], dtype=np.float32)) for name, one in masks.items()
    }
    return MaskSet(masks, **ORIGIN, grids=grids, folds={"n.rows": np.ones(4, np.int8)})


def test_files_hold_6_8_tiles(tmp_path: Path) -> None:
    with_eights().save(tmp_path / "m")
    arrays = load_file(tmp_path / "m")
    # Groups of 8 of 16 rows of a tile and of a tile of half the columns, and of 8 rows of a tile.
    assert (arrays["a.mask8"].dtype, arrays["a.mask8"].shape) == (np.uint8, (16 * (2 + 1) + 8 * 2,))
    assert (arrays["b.mask8"].shape, arrays["a.mask16"].shape) == ((0,), (0,))


def quantised_set() -> MaskSet:
    """Two linears with grids, one of each type, and a linear without a grid."""
    scales = storable(np.linspace(0.01, 3, 24 * 3, dtype=np.float32).reshape(24, 3))
    grids = {"a": Grid(INT4, scales), "b": Grid(INT8, np.linspace(0, 1, 6, dtype=np.float32))}
    return MaskSet({"a": mixed_mask(), "b": known_mask(), "c": known_mask()}, **ORIGIN, grids=grids)


@pytest.mark.parametrize("make", [with_eights, quantised_set])
def test_all_kinds_and_grids_come_back(tmp_path: Path, make: "Made") -> None:
    made = make()
    made.save(tmp_path / "m")
    loaded = MaskSet.load(tmp_path / "m")
    for name in made:
        np.testing.assert_array_equal(loaded[name].keep(), made[name].keep())
        np.testing.assert_array_equal(loaded.kind_maps()[name], made.kind_maps()[name])
        np.testing.assert_array_equal(loaded[name].masks_of_eight(), made[name].masks_of_eight())
    assert loaded.zeroed == made.zeroed == sum(int((~mask.keep()).sum()) for mask in made.values())
    assert loaded.ratio == made.ratio
    assert loaded.packed_bytes_per_weight == made.packed_bytes_per_weight
    assert loaded.grids.keys() == made.grids.keys() and loaded.folds.keys() == made.folds.keys()
    for name, grid in made.grids.items():
        assert loaded.grids[name].type is grid.type
        np.testing.assert_array_equal(loaded.grids[name].scales, grid.scales)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()


def test_packed_bytes_count_each_linear_in_its_type() -> None:
    """16 bits: 2 bytes a dense weight, 1.125 a 2:4 weight; int8: 1 and .625; int4: .53125 and .40625, with its scales."""
    c, b = 2 * 48 + 1.125 * 48, 1 * 48 + 0.625 * 48
    tiles = {
        "dense": (512, 0.53125),
        "2:4": (1536, 0.40625),
        "8:16": (1536, 0.40625),
        "12:16": (1024, 0.53125),
    }
    a = sum(count * taken for count, taken in tiles.values())
    made = quantised_set()
    assert made.packed_bytes_per_weight == (a + b + c) / made.weights


def test_2_4_masks_are_written_plainly(tmp_path: Path) -> None:
    """Also if they come from a set with other kinds."""
    MaskSet({"a": mixed_mask(), "b": known_mask()}, **ORIGIN).save(tmp_path / "two")
    alone = MaskSet({"b": MaskSet.load(tmp_path / "two")["b"]}, **ORIGIN)
    alone.save(tmp_path / "one")
    MaskSet({"b": known_mask()}, **ORIGIN).save(tmp_path / "expected")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "expected").read_bytes()


def mixed_set() -> MaskSet:
    return MaskSet({"a": mixed_mask()}, **ORIGIN)


def plain_set() -> MaskSet:
    return MaskSet({"a": known_mask()}, **ORIGIN)


def shaped(shape: list[float], *tile: int, name: str = "a") -> dict[str, str]:
    """Metadata that give a linear another shape and tile."""
    return {"linears": json.dumps({name: {"shape": shape, "tile": tile}})}


def typed(weights: Any) -> dict[str, str]:
    """Metadata that give the linear in int4 another type."""
    return {"linears": json.dumps({"a": {"shape": [24, 192], "tile": [16, 64], "weights": weights}})}


def ordered_set() -> MaskSet:
    return MaskSet({"a": known_mask()}, **ORIGIN, orders={"a": np.arange(3, dtype=np.int32)})


Made = Callable[[], MaskSet]
META_FAULTS: list[tuple[Made, dict[str, str]]] = [
    (plain_set, {"version": "2"}),
    (plain_set, {"format": "other"}),
    (plain_set, {"linears": "{"}),
    (plain_set, {"linears": '{"a": {"shape": [6, 16]}}'}),
    (plain_set, shaped([60, 16], 4, 8)),
    (plain_set, shaped([5, 16], 4, 8)),
    (plain_set, shaped([6, 16], 4, 6)),
    (plain_set, shaped([6, 16], 4, 8, name="k")),
    (plain_set, shaped([6.0, 16], 4, 8)),
    (plain_set, {"seed": "many"}),
    (plain_set, {"ratio_asked": "nan"}),
    (with_eights, shaped([24, 36], 16, 16)),  # groups are cut
    (mixed_set, shaped([24, 192], 16, 65536)),
    (mixed_set, shaped([24, 144], 16, 48)),
    # A claim of a petabyte is refused before any memory is taken for it.
    (mixed_set, shaped([1099511627776, 192], 549755813888, 64)),
    *((quantised_set, typed(weights)) for weights in ("int3", "float16", ["int8"], "int8")),
]
ARRAY_FAULTS: list[tuple[Made, str, NDArray[Any] | None]] = [
    (plain_set, "pattern", None),
    (plain_set, "pattern", np.zeros(5, np.uint8)),
    (plain_set, "pattern", np.zeros(6, np.int8)),
    (plain_set, "pattern", np.full(6, 0x60, np.uint8)),  # a code above 5
    (plain_set, "tiles", np.zeros(2, np.uint8)),
    (plain_set, "tiles", np.asarray([15], np.uint8)),  # needs 12 bytes of patterns
    (ordered_set, "order", np.array([2, 0, 2], np.int32)),
    (with_eights, "mask8", None),
    (with_eights, "mask8", np.zeros(64, np.int8)),
    (with_eights, "mask8", np.zeros(63, np.uint8)),
    (with_eights, "mask8", np.full(64, 31, np.uint8)),  # keeps 5 of 8
    (quantised_set, "scales", None),
    (quantised_set, "scales", np.ones((24, 3), np.float16)),
    (quantised_set, "scales", np.ones((24, 2), np.float32)),
    (quantised_set, "scales", np.full((24, 3), np.inf, np.float32)),
    (quantised_set, "scales", np.full((24, 3), 1.001, np.float32)),  # of neither float16 nor bfloat16
    (mixed_set, "kinds", np.full((2, 3), 9, np.uint8)),
    (mixed_set, "kinds", np.zeros(6, np.uint8)),
    (mixed_set, "kinds", np.zeros((2, 3), np.int8)),
    (mixed_set, "kinds", np.full((2, 3), 2, np.uint8)),
    (mixed_set, "mask16", None),
    (mixed_set, "mask16", np.zeros(160, np.int16)),
    (mixed_set, "mask16", np.zeros(159, np.uint16)),
    (mixed_set, "mask16", np.full(160, 1, np.uint16)),  # keeps 1 of 16
]


@pytest.mark.parametrize(
    ("made", "meta", "arrays"),
    [
        *((made, meta, {}) for made, meta in META_FAULTS),
        *((made, {}, {f"a.{part}": array}) for made, part, array in ARRAY_FAULTS),
    ],
)
def test_faulty_files_are_refused(
    tmp_path: Path, made: Made, meta: dict[str, str], arrays: dict[str, NDArray[Any] | None]
) -> None:
    path = tmp_path / "m"
    made().save(path)
    metadata, content = dict(Shard.open(path).metadata) | meta, load_file(path) | arrays
    save_file({name: array for name, array in content.items() if array is not None}, path, metadata)
    with refused():
        MaskSet.load(path)["a"].keep()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with refused():
        MaskSet.load(tmp_path / "nowhere")
