"""Finished builds of any size for the page: real tile maps, and reports as the stages write them."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from masklearn.masks.budget import Budget
from masklearn.masks.names import depth_of
from masklearn.masks.record import MaskRecord
from masklearn.masks.score_summary import summarise_scores
from masklearn.masks.select import select
from masklearn.masks.summary import summarise_tiles
from masklearn.masks.tiles import sparse_groups, tile_weights
from patch_compile.out.bench import BenchReport
from patch_compile.out.proof import (
    Agreement,
    PredictionsDifference,
    TextRunner,
    TextWindows,
    Tolerance,
    ToleranceOrigin,
)
from patch_compile.out.report import REPORT_SCHEMA
from patch_compile.out.verify import VerifyReport

TILE = (128, 128)
TOLERANCE = Tolerance(share=0.0118, origin=ToleranceOrigin.ROUNDINGS, dtype="float16", roundings=65)
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


LLAMA_2_7B = llama_shapes(32, 4096, 4096, 11008)
SMOLLM2 = llama_shapes(30, 576, 192, 1536)


class Out:
    """An OUT that is written part by part; a test may change each part before."""

    def __init__(
        self, path: Path, shapes: Shapes = SMOLLM2, ratio: float = 0.4, tile: tuple[int, int] = TILE
    ) -> None:
        self.path, self.shapes, self.tile = path, shapes, tile
        areas = {name: tile_weights(shape, tile) for name, shape in shapes.items()}
        scores = _scores(areas)
        budget = Budget.of(ratio)
        self.tiles = dict(select(scores, areas, budget))
        unit = "twice the loss that it adds, to second order, in nats per token"
        self.record = MaskRecord(
            budget=budget.record(), scores=summarise_scores(scores, areas, self.tiles, budget, unit)
        )
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
        text = {"calib": CALIB, "eval": {"name": "eval.txt", "path": "/texts/eval.txt"}}
        manifest = {key: self.report[key] for key in ("model", "ratio", "method")}
        versions = {"patch-compile": "0.1.0", "python": "3.12.3", "torch": "2.9.1", "onnxruntime": "1.23.2"}
        manifest |= {"schema": 1, "seed": 0, "text": text, "versions": versions, "files": files, "stages": {}}
        self._json("manifest.json", manifest)
        for name, found in (("verify", verify), ("bench", bench)):
            if found is not None:
                (self.path / name).mkdir(exist_ok=True)
                self._json(f"{name}/{name}.json", found.as_json())
        return self.path

    def _json(self, name: str, content: Any) -> None:
        (self.path / name).write_text(json.dumps(content))

    def _write_masks(self) -> None:
        """Write masks with patterns as holes, because a 7B model's patterns are 600 MB that no page reads."""
        header: dict[str, Any] = {}
        bits = {name: np.packbits(grid, bitorder="little") for name, grid in self.tiles.items()}
        end = 0
        for name, grid in bits.items():
            header[f"{name}.tiles"] = {
                "dtype": "U8",
                "shape": [grid.size],
                "data_offsets": [end, end + grid.size],
            }
            end += grid.size
        for name, grid in self.tiles.items():
            size = -(-sparse_groups(grid, self.shapes[name], self.tile) // 2)
            header[f"{name}.pattern"] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
            end += size
        linears = {name: {"shape": shape, "tile": self.tile} for name, shape in self.shapes.items()}
        header["__metadata__"] = {
            "format": "patch-compile.masks",
            "version": "1",
            "linears": json.dumps(linears),
            "ratio_asked": "0.4",
            "ratio": "0.4",
            "method": "oneshot",
            "seed": "0",
            "base_model": "model",
            "base_sha256": "0" * 64,
            "extra": json.dumps(self.record.as_metadata()),
        }
        encoded = json.dumps(header).encode()
        with (self.path / "masks.safetensors").open("wb") as file:
            file.write(
                struct.pack("<Q", len(encoded)) + encoded + b"".join(grid.tobytes() for grid in bits.values())
            )
            file.truncate(8 + len(encoded) + end)

    def _report(self, ratio: float) -> dict[str, Any]:
        rows = [self._row(name) for name in self.shapes]
        reached = sum(row["zeroed"] for row in rows) / sum(n * k for n, k in self.shapes.values())
        return {
            "path": str(self.path / "report.json"),
            "schema": REPORT_SCHEMA,
            "kind": "decoder",
            "model": {
                "path": "/models/smollm2-135m",
                "sha256": "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
            },
            "method": "oneshot",
            "ratio": {"asked": ratio, "reached": reached},
            "linears": rows,
            "where_sparse": summarise_tiles(self.tiles).model_dump(mode="json"),
            "skipped": [{"name": "lm_head", "reason": "the output head is left dense unless it is included"}],
            "plan": {
                "card": {"name": "RTX 3090", "stands_for": "sm86", "calibration": None},
                "workload": {"batch": 16, "prompt": 128, "generated": 128},
                "totals": {key: sum(row[key] for row in rows) for key in ("bytes_before", "bytes_after")},
                "whole": {
                    "prefill": {"dense_ms": 10.9, "planned_ms": 13.4, "speedup": 0.81, "limit": 1.67},
                    "decode": {"dense_ms": 221.0, "planned_ms": 196.2, "speedup": 1.13, "limit": 1.54},
                    "end_to_end": {"dense_ms": 231.9, "planned_ms": 209.6, "speedup": 1.11, "limit": 1.54},
                },
                "unpredicted": None,
            },
            "onnx": {"path": str(self.path / "onnx/model.onnx"), "bytes": 196_000_000},
            "engine": {
                "path": str(self.path / "engine/model.engine"),
                "backend": "tensorrt-rtx",
                "version": "1.7.0",
                "targets": ["sm86"],
                "profiles": ["prefill", "decode"],
                "dtype": "float16",
                "patch_linears": 120,
                "bytes": 229_000_000,
                "sparse_parts": 0,
                "packed_bytes": 190_000_000,
                "sparse_tactics": None,
                "seconds": 31.4,
            },
            "text": {"eval": {"name": "eval.txt", "path": "/texts/eval.txt"}},
            "perplexity": {
                "dense": 15.68,
                "hybrid": 22.19,
                "on": TextWindows(
                    name="eval.txt", windows=8, length=1024, dtype="float16", runner=TextRunner.ONNX_RUNTIME
                ).as_json(),
            },
            "agreement": Agreement(error=0.0031, tolerance=TOLERANCE, dense_error=0.41, feeds=4).as_json(),
            "difference": PredictionsDifference(kl=0.331, top1_agreement=0.672).as_json(),
            "generated": {
                "prompt": "The capital of France is",
                "dense": " Paris, and it is one of the most visited cities in the world.",
                "hybrid": " Paris, the city of light, and it is one of the largest cities in the world.",
            },
            "notes": ["lowering: plugin (asked for)"],
            "seconds": {"masks": 412.7, "pruned checkpoint": 1.2, "export": 8.0, "pack": 2.2, "engine": 31.4},
        }

    def _row(self, name: str) -> dict[str, Any]:
        shape, tiles = self.shapes[name], self.tiles[name]
        zeroed = 2 * sparse_groups(tiles, shape, self.tile)
        p = 2 * zeroed / (shape[0] * shape[1])
        size, lowering = shape[0] * shape[1] * 2, "plugin" if tiles.any() else "dense"
        times = {
            phase: {
                "dense": size / rate,
                "hybrid": size / rate * (1.1 - 0.4 * p),
                "sparse": size / rate * 0.7,
                "bound": bound,
                "slower": None,
            }
            for phase, rate, bound in (("prefill", 40_000, "tensor"), ("decode", 250_000, "bytes"))
        }
        return {
            "name": name,
            "shape": list(shape),
            "zeroed": zeroed,
            "tiles": {"sparse": int(tiles.sum()), "all": tiles.size},
            "lowering": lowering,
            "reason": None if tiles.any() else {"kind": "no-sparse-tile"},
            "node": {"name": name, "linears": [name]} if tiles.any() else None,
            "panel_rows": 128,
            "slabs": {"dense": 1, "sparse": 1},
            "bytes_before": size,
            "bytes_after": round(size * (1 - 0.4375 * p)),
            "predicted": times,
            "split": None,
        }


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


CALIB = {
    "source": "file",
    "name": "calib.txt",
    "sha256": "9f" * 32,
    "tokens": 262144,
    "windows": 32,
    "length": 512,
    "seed": 0,
}
