import json
import re
import sys
from typing import Any

import numpy as np
import pytest

from masklearn.masks.summary import summarise_tiles
from patch_compile.api.results import LearnedMasks
from patch_compile.out.plan import LinearRow
from patch_compile.report.terminal.console import _fused, import_parts, masks_parts
from patch_compile.report.terminal.parts import show

KINDS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
         "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip


def tile_maps(layers: int) -> dict[str, np.ndarray]:
    """Maps in which v is dense, down is 2:4 in the second half of the blocks, and one in four of other tiles is 2:4."""
    maps = {}
    for i in range(layers):
        for kind in KINDS:
            tiles = np.zeros((2, 2), bool)
            tiles[0, 0] = kind != "self_attn.v_proj"
            if kind == "mlp.down_proj":
                tiles[:] = i >= layers // 2
            maps[f"model.layers.{i}.{kind}"] = tiles
    return maps


def summary(layers: int = 126) -> dict[str, Any]:
    maps = tile_maps(layers)
    return {
        "path": "out",
        "method": "oneshot",
        "ratio": {"asked": 0.35, "reached": 0.3501},
        "skipped": [{"name": "lm_head", "reason": "its weight is tied to the embedding"}],
        "linears": [
            linear(name, zeroed=int(tiles.sum()) * 2048, tiles={"sparse": int(tiles.sum()), "all": 4})
            for name, tiles in maps.items()
        ],
        "where_sparse": summarise_tiles(maps),
    }


def linear(name: str, **changed: Any) -> dict[str, Any]:
    """A row of a result, of a linear that is packed."""
    return {
        "name": name,
        "shape": [128, 128],
        "zeroed": 0,
        "tiles": {"sparse": 0, "all": 4},
        "lowering": "plugin",
        "reason": None,
        "node": {"name": name, "linears": [name]},
        "panel_rows": 128,
        "slabs": {"dense": 2, "sparse": 0},
        "bytes_before": 32768,
        "bytes_after": 30000,
        "predicted": None,
        "split": None,
        **changed,
    }


def compared(*beaten_by: str) -> dict[str, Any]:
    rows = [("oneshot", 0.35, 33.456, 480.2, True), ("ffn-only", 0.375, 80.1, 99.0, True),
            ("unstructured", 0.35, float("inf"), 120.0, False)]  # fmt: skip
    keys = ("name", "ratio", "perplexity", "seconds", "deployable")
    return {
        "rows": [dict(zip(keys, row, strict=True)) for row in rows],
        "beaten_by": list(beaten_by),
        "windows": 16,
        "length": 1024,
        "dtype": "float32",
    }


def test_a_map_of_where_the_tiles_are(capsys: pytest.CaptureFixture[str]) -> None:
    show(masks_parts(summary()))
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("% of tiles 2:4"))
    rows = {line.split()[0]: line.split()[1:] for line in lines[start + 1 : start + 9]}
    assert lines[start].split()[-10:] == ["0", "13", "26", "39", "52", "65", "78", "90", "102", "114"]
    assert list(rows) == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "all"]
    assert rows["q_proj"] == ["25░"] * 11
    assert rows["v_proj"] == ["0"] * 11
    assert rows["down_proj"] == ["50▒", "0", "0", "0", "0", "15░", "100█", "100█", "100█", "100█", "100█"]


def test_json_holds_the_numbers() -> None:
    where = json.loads(LearnedMasks(summary(3)).json())["where_sparse"]
    assert where["blocks"] == [[0, 0], [1, 1], [2, 2]]
    assert where["kinds"][-1]["by_depth"] == [0.0, 1.0, 1.0]


def test_everything_fits_80_columns_without_colour(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    show(masks_parts(summary() | {"baselines": compared()}))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    tables = [line for line in out.splitlines() if re.match(r"^( |%|─|all|\w+_proj)", line)]
    assert len(tables) > 20
    assert max(len(line.rstrip()) for line in tables) <= 80


def test_baselines_come_last_with_what_should_be_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    show(masks_parts(summary(2) | {"baselines": compared("ffn-only")}))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("note: oneshot at ratio 0.350 is worse than FFN-only 2:4 at 0.375")
    assert "16 windows of 1024 tokens, float32" in lines[-2]
    (learned,) = [line.split() for line in lines if re.match(r" +oneshot +0", line)]
    assert learned == ["oneshot", "0.350", "33.46", "480"]
    (reference,) = [line for line in lines if "unstructured" in line]
    assert re.search(r"inf +120 +a reference: no kernel runs it", reference)


def test_a_result_without_blocks_has_no_map(capsys: pytest.CaptureFixture[str]) -> None:
    made = summary(1) | {"where_sparse": summarise_tiles({"lm_head": np.ones((1, 1), bool)})}
    show(import_parts(made | {"ratio": 0.1, "zeros": 0.2, "format": "x"}))
    assert "% of tiles" not in capsys.readouterr().out


def test_what_is_fused_is_counted_by_nodes() -> None:
    def row(name: str, node: dict[str, Any]) -> LinearRow:
        return LinearRow.model_validate(linear(name, node=node))

    def gated(block: int) -> list[LinearRow]:
        names = [f"{block}.gate", f"{block}.up"]
        node = {"name": f"{block}.gate+up", "linears": names, "activation": "silu", "gated": True}
        return [row(name, node) for name in names]

    down = row("0.down", {"name": "0.down", "linears": ["0.down"], "residual": True})
    dense = LinearRow.model_validate(linear("0.k", lowering="dense", node=None, reason={"kind": "asked"}))
    plain = [row("0.q", {"name": "0.q", "linears": ["0.q"]}), dense]
    assert _fused([*gated(0), *gated(1), down, *plain]) == "SiLU·mul with up ×2, residual ×1"
    assert _fused(plain) == ""
