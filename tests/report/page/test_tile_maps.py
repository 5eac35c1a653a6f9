import re
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from masklearn.masks.kinds.table import DENSE, KINDS, PRUNED
from masklearn.masks.maskset import MaskSet
from masklearn.masks.tiles import WHOLE
from patch_compile.report.number_format import kind_class
from patch_compile.report.page.tile_maps import tile_maps, tile_path
from patch_compile.report.page.write import asset
from tests.mosaics import mosaic
from tests.report.page.outs import Out


def drawn(path: str, shape: tuple[int, int]) -> np.ndarray:
    """Number of a path's rectangles that cover each tile. Checks that each is closed and lies in the map."""
    covered = np.zeros(shape, int)
    rectangles = re.findall(r"M(\d+) (\d+)h(\d+)v(\d+)h-(\d+)z", path)
    assert "".join(f"M{x} {y}h{w}v{h}h-{back}z" for x, y, w, h, back in rectangles) == path
    for x, y, w, h, back in (map(int, one) for one in rectangles):
        assert w == back and x + w <= shape[1] and y + h <= shape[0]
        covered[y : y + h, x : x + w] += 1
    return covered


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 40))))
def test_paths_cover_2_4_tiles_once(tiles: np.ndarray) -> None:
    assert np.array_equal(drawn(tile_path(tiles), tiles.shape), tiles)


def maps_of(
    path: Path, shapes: dict[str, Any], tile: tuple[int, int] = (128, 128), ratio: float = 0.3
) -> dict[str, Any]:
    found = tile_maps(MaskSet.load(Out(path, shapes, ratio, tile).write() / "masks.safetensors"))
    assert found is not None
    return found


def test_kinds_down_and_depth_across(tmp_path: Path) -> None:
    shapes = {f"model.layers.{i}.{kind}": (256, 128) for i in range(3) for kind in ("mlp.up", "attn.q")}
    found = maps_of(tmp_path, shapes | {"lm_head": (1000, 128)})
    assert found["depths"] == [0, 1, 2, None]
    assert [row["kind"] for row in found["rows"]] == ["lm_head", "q", "up"]
    assert [len(cell) for cell in found["rows"][0]["cells"]] == [0, 0, 0, 1]
    assert [len(cell) for cell in found["rows"][2]["cells"]] == [1, 1, 1, 0]
    assert found["squeezed"]  # the head is eight times as high as it is wide


def test_shares_are_of_weights_not_of_tiles(tmp_path: Path) -> None:
    """The last tile of 130 rows has only two rows."""
    out = Out(tmp_path, {"layers.0.up": (130, 128)}, 0.0)
    out.tiles["layers.0.up"][1, 0] = True
    found = tile_maps(MaskSet.load(out.write() / "masks.safetensors"))
    assert found is not None
    (one,) = found["rows"][0]["cells"][0]
    assert one.share == found["share"] == 2 / 130
    assert one.size == (1.0, 130 / 128)
    assert "1 2:4 of 2 tiles" in one.about


def test_tiles_may_span_their_linear(tmp_path: Path) -> None:
    found = maps_of(tmp_path, {"layers.0.up": (512, 300)}, (128, WHOLE))
    (one,) = found["rows"][0]["cells"][0]
    assert one.size == (1.0, 4.0)
    assert "tiles of 128x*" in one.about


def test_each_kind_has_a_path_and_a_colour(tmp_path: Path) -> None:
    mask = mosaic((256, 256), (64, 64), 1)
    masks = MaskSet({"layers.0.up": mask}, method="x", seed=0, base_model="", base_sha256="", ratio_asked=0.3)
    found = tile_maps(masks)
    assert found is not None
    (one,) = found["rows"][0]["cells"][0]
    there = [kind for kind in KINDS if kind is not DENSE and (mask.kinds == kind.code).any()]
    assert (
        found["kinds"] == [kind for kind, _ in one.paths] == [str(kind) for kind in there] and len(there) == 3
    )
    for kind, path in one.paths:
        assert np.array_equal(drawn(path, (4, 4)), mask.kinds == PRUNED[kind].code)
    assert one.share == 1 - mask.by_kind()[DENSE] / mask.weights
    assert f"{int((mask.kinds == 2).sum())} 8:16" in one.about
    rules = asset("page.css")
    assert all(f".{kind_class(kind.name)} {{ --kind:" in rules for kind in KINDS if kind is not DENSE)


def test_experts_share_a_cell(tmp_path: Path) -> None:
    shapes = {f"model.layers.{i}.experts.{j}.w1": (128, 128) for i in range(2) for j in range(4)}
    found = maps_of(tmp_path, shapes)
    assert [len(cell) for cell in found["rows"][0]["cells"]] == [4, 4]


def test_no_masks_no_maps() -> None:
    assert (
        tile_maps(MaskSet({}, method="none", seed=0, base_model="", base_sha256="", ratio_asked=0.0)) is None
    )
