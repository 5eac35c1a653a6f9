"""Rows of the results of `learn` and `import-mask`."""

from masklearn.masks.kinds.table import DENSE, PRUNED
from patch_compile.artifacts.command_results import MaskedLinear
from patch_compile.artifacts.plan import TileCount
from tests.mosaics import mosaic


def test_tiles_of_every_kind_that_prunes_count() -> None:
    mask = mosaic((128, 256), (32, 64), 3, [DENSE, PRUNED["2:4"], PRUNED["8:16"]])
    row = MaskedLinear.of("q", mask)
    assert row.tiles == TileCount(sparse=int((mask.kinds != DENSE.code).sum()), all=16)
    assert int(mask.tiles.sum()) < row.tiles.sparse < 16 and row.zeroed == mask.zeroed
