"""Finished builds of any size for the page: real tile maps, and reports as the stages write them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from masklearn.choice.select import select
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from masklearn.masks.name_globs import depth_of
from masklearn.masks.record import ChoiceRecord, MaskRecord, TextRecord, summarise_tiles
from masklearn.masks.tiles import sparse_groups, tile_weights
from patch_compile.artifacts.bench import BenchReport
from patch_compile.artifacts.layout import PAGE
from patch_compile.artifacts.manifest import Manifest, Ratio, Texts
from patch_compile.artifacts.plan import (
    Asked,
    Bound,
    LinearRow,
    LinearTimes,
    Node,
    Reason,
    ReasonKind,
    Slabs,
    TileCount,
    Times,
    Totals,
)
from patch_compile.artifacts.verify import VerifyReport
from patch_compile.report.page.page_data import Sources
from patch_compile.report.page.write import rendered
from tests.artifacts.examples import EVAL, PLAN, decoder_report, linear_row

TILE = (128, 128)
Shapes = dict[str, tuple[int, int]]


def llama_shapes(layers: int, hidden: int, kv: int, wide: int) -> Shapes:
    kinds = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }
    return {f"model.layers.{i}.{kind}": shape for i in range(layers) for kind, shape in kinds.items()}


LLAMA_2_7B = llama_shapes(32, 128, 128, 344)  # in tiles of 4x4: as many tiles as of 128x128 in the model
SMOLLM2 = llama_shapes(30, 576, 192, 1536)


class Out:
    """An OUT that is written part by part; a test may change each part before."""

    def __init__(
        self, path: Path, shapes: Shapes = SMOLLM2, ratio: float = 0.4, tile: tuple[int, int] = TILE
    ) -> None:
        self.path, self.shapes, self.tile = path, shapes, tile
        areas = {name: tile_weights(shape, tile) for name, shape in shapes.items()}
        scores = _scores(areas)
        chosen = select(scores, areas, ratio)
        self.tiles = dict(chosen)
        self.record = MaskRecord(choice=ChoiceRecord(unit="ratio", asked=ratio, reached=ratio))
        self.report = self._report(ratio)

    def write(self, verify: VerifyReport | None = None, bench: BenchReport | None = None) -> Path:
        self.path.mkdir(parents=True, exist_ok=True)
        self._write_masks()
        self._json("report.json", self.report | {"learned": self.record.as_metadata()})
        recipe = {"model": self.report["model"]["path"], "ratio": 0.4, "lowering": "plugin"}
        (self.path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        files = {
            name: hashlib.sha256(name.encode()).hexdigest() for name in ("report.json", "masks.safetensors")
        }
        Manifest(
            model=self.report["model"],
            ratio=Ratio(asked=self.report["asked"]["ratio"], reached=self.report["ratio"]),
            method=self.report["method"],
            seed=0,
            text=Texts(calib=CALIB, eval=EVAL),
            versions={
                "patch-compile": "0.1.0",
                "python": "3.12.3",
                "torch": "2.9.1",
                "onnxruntime": "1.23.2",
            },
            files=files,
            sizes={},
            stages={},
        ).write(self.path / "manifest.json")
        for name, found in (("verify", verify), ("bench", bench)):
            if found is not None:
                (self.path / name).mkdir(exist_ok=True)
                self._json(f"{name}/{name}.json", found.as_json())
        return self.path

    def _json(self, name: str, content: Any) -> None:
        (self.path / name).write_text(json.dumps(content))

    def _write_masks(self) -> None:
        """Write masks in which all groups keep their first two weights."""
        masks = {
            name: LinearMask(
                shape, self.tile, tiles, np.zeros(sparse_groups(tiles, shape, self.tile), np.uint8)
            )
            for (name, shape), tiles in zip(self.shapes.items(), self.tiles.values(), strict=True)
        }
        about = {"method": "oneshot", "seed": 0, "base_model": "model", "base_sha256": "0" * 64}
        MaskSet(masks, **about, ratio_asked=0.4, record=self.record).save(self.path / "masks.safetensors")

    def _report(self, ratio: float) -> dict[str, Any]:
        rows = tuple(map(self._row, self.shapes))
        reached = sum(row.zeroed for row in rows) / sum(n * k for n, k in self.shapes.values())
        before, after = sum(row.bytes_before for row in rows), sum(row.bytes_after for row in rows)
        return decoder_report(
            self.path,
            asked=Asked(ratio=ratio),
            ratio=reached,
            linears=rows,
            where_sparse=summarise_tiles(self.tiles),
            plan=PLAN.model_copy(update={"totals": Totals(bytes_before=before, bytes_after=after)}),
        ).as_json()

    def _row(self, name: str) -> LinearRow:
        shape, tiles = self.shapes[name], self.tiles[name]
        zeroed = 2 * sparse_groups(tiles, shape, self.tile)
        p = 2 * zeroed / (shape[0] * shape[1])
        size, packed = shape[0] * shape[1] * 2, bool(tiles.any())

        def times(rate: int, bound: Bound) -> Times:
            dense = size / rate
            return Times(dense=dense, hybrid=dense * (1.1 - 0.4 * p), sparse=dense * 0.7, bound=bound)

        return linear_row(
            name,
            shape=shape,
            zeroed=zeroed,
            tiles=TileCount(sparse=int(tiles.sum()), all=tiles.size),
            lowering="plugin" if packed else "dense",
            reason=None if packed else Reason(kind=ReasonKind.NO_SPARSE_TILE),
            node=Node(name=name, linears=(name,)) if packed else None,
            slabs=Slabs(dense=1, sparse=1),
            bytes_before=size,
            bytes_after=round(size * (1 - 0.4375 * p)),
            predicted=LinearTimes(prefill=times(40_000, "tensor"), decode=times(250_000, "bytes")),
        )


def _scores(areas: dict[str, Any]) -> dict[str, Any]:
    """Scores like a trained model's: higher at both ends of the model and in columns of outliers."""
    rng = np.random.default_rng(0)
    scores = {}
    for name, area in areas.items():
        depth = depth_of(name) or 0
        ends = 1 + 3 * np.exp(-depth / 2)
        kind = 2.5 if "v_proj" in name or "down" in name else 1.0
        columns = rng.lognormal(sigma=0.7, size=area.shape[1])
        scores[name] = area * columns * rng.lognormal(sigma=0.5, size=area.shape) * ends * kind * 3e-9
    return scores


CALIB = TextRecord(
    source="file", name="calib.txt", sha256="9f" * 32, tokens=262144, windows=32, length=512, seed=0
)


def write_page(out: Path) -> Path:
    """Write OUT/report.html, and leave the manifest as it is."""
    page = out / PAGE
    page.write_text(rendered(Sources.read(out)), encoding="utf-8")
    return page
