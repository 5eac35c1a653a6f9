import pytest

from masklearn.masks.tile_text import WHOLE, parse_tile, spell_tile
from masklearn.masks.tiles import GROUP, check_tile, grid_shape


@pytest.mark.parametrize(
    ("text", "tile"),
    [("128x128", (128, 128)), ("1x4", (1, 4)), ("128x*", (128, WHOLE)), ("*x64", (WHOLE, 64)), ("*x*", (WHOLE, WHOLE))],
)  # fmt: skip
def test_spelled(text, tile):
    assert parse_tile(text) == tile
    assert spell_tile(tile) == text
    assert parse_tile(text.upper()) == tile


@pytest.mark.parametrize(
    "text", ["128", "128x", "x128", "0x128", "128x0", "128x6", "1x4x4", "-1x4", "ax4", "**x4", "²x4"]
)
def test_no_tile(text):
    with pytest.raises(ValueError, match="a tile is ROWSxCOLS"):
        parse_tile(text)


def test_a_whole_tile_covers_any_linear_without_cutting_a_group():
    assert WHOLE % GROUP == 0
    check_tile((300, 72), (128, WHOLE))
    assert grid_shape((300, 72), (128, WHOLE)) == (3, 1)
    assert grid_shape((300, 72), (WHOLE, WHOLE)) == (1, 1)
