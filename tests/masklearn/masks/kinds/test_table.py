"""The table of kinds, and masks of one linear that have several of them."""

import numpy as np
import pytest

from masklearn.masks.kinds.table import BY_CODE, DENSE, FAMILIES, KINDS, PRUNED, TWO_FOUR, kind_named
from masklearn.masks.linear_mask import LinearMask


def test_codes_and_names_are_those_of_files_and_the_command_line() -> None:
    """Mask files hold the codes, so no later table may give one another meaning."""
    assert {kind.code: kind.name for kind in KINDS} == {
        0: "dense", 1: "2:4", 2: "8:16", 3: "12:16", 4: "10:16", 5: "14:16", 6: "6:16", 7: "4:16"
    }  # fmt: skip


def test_bytes_and_zeros() -> None:
    found = {kind.name: (kind.bytes_per_weight, kind.zeros) for kind in KINDS}
    assert found["dense"] == (2.0, 0.0)
    assert found["2:4"] == found["8:16"] == (1.125, 0.5)
    assert found["12:16"] == (1.625, 0.25)
    assert found["10:16"] == (1.375, 0.375)


def test_a_kind_fits_where_its_groups_divide_the_columns() -> None:
    assert TWO_FOUR.fits(4)
    assert PRUNED["8:16"].fits(128)
    assert not PRUNED["8:16"].fits(48)


def test_an_unknown_kind_is_named_beside_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no kind '9:16'\. The kinds are 2:4, 8:16, 12:16"):
        kind_named("9:16")


def mixed(rng: np.random.Generator, shape: tuple[int, int] = (24, 192)) -> LinearMask:
    kinds = rng.choice([0, 1, 2, 3, 4], (2, 3)).astype(np.uint8)
    kinds[0] = 1, 2, 3  # each family in one linear
    scores = rng.random(shape)
    kept = np.full((2, 3), 16, np.uint8)
    for code in (2, 3, 4):
        kept[kinds == code] = BY_CODE[code].kept
    groups = np.repeat(np.repeat(kept, 4, axis=1), 16, axis=0)[:24]
    codes = {"2:4": FAMILIES["2:4"].best(scores, 2), "n:16": FAMILIES["n:16"].best(scores, groups)}
    return LinearMask.from_codes(shape, (16, 64), kinds, codes)


@pytest.mark.parametrize("seed", range(5))
def test_a_mask_of_several_kinds_keeps_what_each_tile_keeps(seed: int) -> None:
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


def test_a_mask_of_dense_and_2_4_tiles_has_no_others() -> None:
    kinds = np.array([[0, 1]], np.uint8)
    mask = LinearMask.from_codes((4, 16), (4, 8), kinds, {"2:4": np.zeros((4, 4), np.uint8)})
    assert mask.others is None
    assert mask.kinds.tolist() == [[DENSE.code, TWO_FOUR.code]]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"others": np.array([[2]], np.uint8)}, "groups are n:16"),
        ({"others": np.array([[9]], np.uint8)}, "kind 9 is not in the table"),
        ({"others": np.array([[1]], np.uint8)}, "among the kinds that are not"),
        ({"others": np.array([[2, 2]], np.uint8)}, "for"),
        ({"shape": (2, 32), "others": np.array([[2]], np.uint8)}, "multiples of 64"),
        ({"mask16": np.zeros(3, np.uint16)}, "0 groups are n:16"),
        ({"others": np.array([[2]], np.uint8), "mask16": np.full(8, 7, np.uint16)}, "keeps 3 weights"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changed: dict[str, object], why: str) -> None:
    given = {
        "shape": (2, 64),
        "tile": (2, 64),
        "tiles": np.zeros((1, 1), np.bool_),
        "pattern": np.zeros(0, np.uint8),
    }
    with pytest.raises(ValueError, match=why):
        LinearMask(**(given | changed))  # type: ignore[arg-type]
