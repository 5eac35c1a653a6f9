"""Types of weights in words, and the share of a loss that rounding has."""

from collections import Counter

import numpy as np

from masklearn.masks.maskset import MaskSet
from masklearn.quality.record import BaselineRow, BesideBaselines
from masklearn.quant.grid import Grid
from masklearn.quant.table import INT8
from patch_compile.planning.lowering import plan_linear
from patch_compile.report.learned import mosaic_line
from patch_compile.report.prediction import lowering_words, reason_lines
from patch_compile.report.weight_types import compiled_types, loss_lines, types_line
from tests.planning.assumed import assumed_mask

TILE = (128, 128)


def row(name: str, perplexity: float) -> BaselineRow:
    return BaselineRow(name=name, ratio=0.4, perplexity=perplexity, seconds=None, deployable=True)


def said(*rows: BaselineRow) -> list[str]:
    found = BesideBaselines(rows=rows, beaten_by=(), windows=8, length=1024, dtype="float32")
    return list(loss_lines(found))


def test_a_loss_is_split_where_dense_weights_of_the_type_were_measured() -> None:
    build, dense, rounded = row("oneshot", 30.0), row("dense", 22.0), row("dense-rounded", 22.5)
    assert said(build, dense, rounded) == [
        "loss: dense 22.00; rounding its weights alone +0.50, to 22.50; pruning on top +7.50, to 30.00"
    ]
    assert said(build, dense) == said(build, rounded) == []
    assert said(row("oneshot", float("inf")), dense, rounded) == []


def test_masks_say_their_types_and_bytes() -> None:
    about = {"method": "none", "seed": 0, "base_model": "m", "base_sha256": "", "ratio_asked": 0.5}
    masks = {name: assumed_mask((256, 256), TILE, 0.5) for name in ("a", "b")}
    assert mosaic_line(MaskSet(masks, **about)) == ""
    grid = Grid(INT8, np.ones(256, np.float32))
    assert mosaic_line(MaskSet(masks, **about, grids={"a": grid})) == (
        "tiles: 100.0% 2:4 (of the weights); weights: 1 int8, 1 16-bit; a packed weight takes 0.875 bytes on average, 2 as "
        "a dense one of 16 bits"
    )
    assert "weights: int8; a packed weight takes 0.625 bytes" in mosaic_line(
        MaskSet(masks, **about, grids={"a": grid, "b": grid})
    )


def test_compiled_linears_say_their_types() -> None:
    mask = assumed_mask((4096, 4096), TILE, 0.4)
    usual = plan_linear("a.x", mask).row()
    int8 = plan_linear("b.x", mask, weights=INT8).row()
    dense = plan_linear("c.y", mask, "dense", weights=INT8).row()
    assert [lowering_words(one) for one in (usual, int8, dense)] == ["plugin", "plugin int8", "plugin int8"]
    assert compiled_types([usual]) == Counter() and types_line(compiled_types([usual])) == ""
    assert types_line(compiled_types([usual, int8, dense])) == "weights: 2 int8, 1 16-bit"
    assert types_line(compiled_types([int8])) == "weights: int8"
    (line,) = reason_lines([usual, int8, dense])
    assert line == "dense int8: y ×1: asked for by --lowering"
