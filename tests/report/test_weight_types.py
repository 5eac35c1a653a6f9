"""Types of weights in words."""

from collections import Counter

import numpy as np

from masklearn.masks.maskset import MaskSet
from masklearn.quant.grid import Grid
from masklearn.quant.table import INT8
from patch_compile.planning.lowering import plan_linear
from patch_compile.report.learned import mosaic_line
from patch_compile.report.linears import compiled_types, types_line
from patch_compile.report.prediction import lowering_words, reason_lines
from tests.planning.assumed import assumed_mask

TILE = (128, 128)


def test_masks_say_their_types_and_bytes() -> None:
    about = {"method": "none", "seed": 0, "base_model": "m", "base_sha256": "", "ratio_asked": 0.5}
    masks = {name: assumed_mask((256, 256), TILE, 0.5) for name in ("a", "b")}
    assert mosaic_line(MaskSet(masks, **about)) == ""
    grid = Grid(INT8, np.ones(256, np.float32))
    assert mosaic_line(MaskSet(masks, **about, grids={"a": grid})) == (
        "tiles: 100.0% 2:4 (of the weights); weights: 1 int8, 1 16-bit; a packed weight takes 0.875 bytes on average, a "
        "dense 16-bit weight 2"
    )
    assert "weights: int8; a packed weight takes 0.625 bytes" in mosaic_line(
        MaskSet(masks, **about, grids={"a": grid, "b": grid})
    )


def test_compiled_linears_say_their_types() -> None:
    mask = assumed_mask((4096, 4096), TILE, 0.4)
    usual = plan_linear("a.x", mask)
    int8 = plan_linear("b.x", mask, weights=INT8)
    dense = plan_linear("c.y", mask, "dense", weights=INT8)
    assert [lowering_words(one) for one in (usual, int8, dense)] == ["plugin", "plugin int8", "plugin int8"]
    assert compiled_types([usual]) == Counter() and types_line(compiled_types([usual])) == ""
    assert types_line(compiled_types([usual, int8, dense])) == "weights: 2 int8, 1 16-bit"
    assert types_line(compiled_types([int8])) == "weights: int8"
    (line,) = reason_lines([usual, int8, dense])
    assert line == "dense int8: y ×1: asked for by --lowering"
