"""Records of OUT as the stages make them, with any part changed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.record import MaskRecord
from masklearn.masks.summary import summarise_tiles
from patch_compile.out.answers import LearnedAnswer, MaskedLinear
from patch_compile.out.engine import BuiltEngine, EngineReport
from patch_compile.out.manifest import ModelOrigin, Ratio
from patch_compile.out.plan import LinearRow, Node, Skipped, Slabs, TileCount
from patch_compile.out.report import Kind

_DETAILS: dict[str, Any] = {
    "backend": "tensorrt-rtx", "version": "1.7.0", "targets": ("sm86",), "profiles": ("prefill", "decode"),
    "dtype": "float16", "patch_linears": 120, "bytes": 229_000_000, "packed_bytes": 190_000_000, "sparse_parts": 0,
    "sparse_tactics": None, "seconds": 31.4, "plugin_version": 1,
}  # fmt: skip


def engine_report(**changed: Any) -> EngineReport:
    return EngineReport(**({"file": "model.engine", "plugin": "libpatch_linear.so"} | _DETAILS | changed))


def built_engine(path: str = "/out/engine/model.engine", **changed: Any) -> BuiltEngine:
    return BuiltEngine(**({"path": path} | _DETAILS | changed))


MODEL = ModelOrigin(
    path="/models/smollm2-135m", sha256="5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c"
)
SKIPPED = (Skipped(name="lm_head", reason="the output head is left dense unless it is included"),)


def linear_row(name: str, **changed: Any) -> LinearRow:
    """A linear that is packed."""
    made = {"name": name, "shape": (128, 128), "zeroed": 0, "tiles": TileCount(sparse=0, all=4), "lowering": "plugin",
            "reason": None, "node": Node(name=name, linears=(name,)), "panel_rows": 128, "slabs": Slabs(dense=2, sparse=0),
            "bytes_before": 32768, "bytes_after": 30000, "predicted": None, "split": None}  # fmt: skip
    return LinearRow(**(made | changed))


def learned_answer(tile_maps: Mapping[str, NDArray[np.bool_]], **changed: Any) -> LearnedAnswer:
    rows = (
        MaskedLinear(
            name=name,
            shape=(128, 128),
            zeroed=int(tiles.sum()) * 2048,
            tiles=TileCount(sparse=int(tiles.sum()), all=tiles.size),
        )
        for name, tiles in tile_maps.items()
    )
    made = {"path": "out", "kind": Kind.DECODER, "model": MODEL, "method": "oneshot", "linears": tuple(rows),
            "ratio": Ratio(asked=0.35, reached=0.3501), "skipped": SKIPPED, "learned": MaskRecord(),
            "where_sparse": summarise_tiles(tile_maps), "notes": (), "seconds": {"masks": 412.7}}  # fmt: skip
    return LearnedAnswer(**(made | changed))
