import json
import re
import sys
from typing import Any

import numpy as np
import pytest

from masklearn.quality.record import BaselineRow
from patch_compile.api.results import LearnedMasks
from patch_compile.artifacts.command_results import LearnedAnswer, LearnedBaselines
from patch_compile.artifacts.manifest import EvalText
from patch_compile.artifacts.plan import LinearRow, Node, Reason, ReasonKind
from patch_compile.report.terminal.console import _fused, masks_parts
from patch_compile.report.terminal.parts import show
from tests.artifacts.examples import learned_answer, linear_row

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


def answer(layers: int = 126, **changed: Any) -> LearnedAnswer:
    return learned_answer(tile_maps(layers), **changed)


def compared(*beaten_by: str) -> LearnedBaselines:
    rows = [("oneshot", 0.35, 33.456, 480.2, True), ("ffn-only", 0.375, 80.1, 99.0, True),
            ("unstructured", 0.35, float("inf"), 120.0, False)]  # fmt: skip
    return LearnedBaselines(
        rows=tuple(
            BaselineRow(name=name, ratio=ratio, perplexity=value, seconds=seconds, deployable=deployable)
            for name, ratio, value, seconds, deployable in rows
        ),
        beaten_by=beaten_by,
        windows=16,
        length=1024,
        dtype="float32",
        text=EvalText(name="eval.txt", path="/texts/eval.txt"),
    )


def test_a_map_of_where_the_tiles_are(capsys: pytest.CaptureFixture[str]) -> None:
    show(masks_parts(answer()))
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("% of tiles pruned"))
    rows = {line.split()[0]: line.split()[1:] for line in lines[start + 1 : start + 9]}
    assert lines[start].split()[-10:] == ["0", "13", "26", "39", "52", "65", "78", "90", "102", "114"]
    assert list(rows) == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "all"]
    assert rows["q_proj"] == ["25░"] * 11
    assert rows["v_proj"] == ["0"] * 11
    assert rows["down_proj"] == ["50▒", "0", "0", "0", "0", "15░", "100█", "100█", "100█", "100█", "100█"]


def test_json_holds_the_numbers() -> None:
    where = json.loads(LearnedMasks(answer(3)).json())["where_sparse"]
    assert where["blocks"] == [[0, 0], [1, 1], [2, 2]]
    assert where["kinds"][-1]["by_depth"] == [0.0, 1.0, 1.0]


def test_everything_fits_80_columns_without_colour(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    show(masks_parts(answer(baselines=compared())))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    tables = [line for line in out.splitlines() if re.match(r"^( |%|─|all|\w+_proj)", line)]
    assert len(tables) > 20
    assert max(len(line.rstrip()) for line in tables) <= 80


def test_baselines_come_last_with_what_should_be_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    show(masks_parts(answer(2, baselines=compared("ffn-only"))))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("note: oneshot at ratio 0.350 is worse than FFN-only 2:4 at 0.375")
    assert "16 windows of 1024 tokens, float32" in lines[-2]
    (learned,) = [line.split() for line in lines if re.match(r" +oneshot +0", line)]
    assert learned == ["oneshot", "0.350", "33.46", "480"]
    (reference,) = [line for line in lines if "unstructured" in line]
    assert re.search(r"inf +120 +no kernel runs it", reference)


def test_a_result_without_blocks_has_no_map(capsys: pytest.CaptureFixture[str]) -> None:
    show(masks_parts(answer(1)))
    assert "% of tiles" in capsys.readouterr().out
    show(masks_parts(learned_answer({"lm_head": np.ones((1, 1), bool)})))
    assert "% of tiles" not in capsys.readouterr().out


def test_what_is_fused_is_counted_by_nodes() -> None:
    def gated(block: int) -> list[LinearRow]:
        names = (f"{block}.gate", f"{block}.up")
        node = Node(name=f"{block}.gate+up", linears=names, activation="silu", gated=True)
        return [linear_row(name, node=node) for name in names]

    down = linear_row("0.down", node=Node(name="0.down", linears=("0.down",), residual=True))
    dense = linear_row("0.k", lowering="dense", node=None, reason=Reason(kind=ReasonKind.ASKED))
    plain = [linear_row("0.q"), dense]
    assert _fused([*gated(0), *gated(1), down, *plain]) == "SiLU·mul with up ×2, residual ×1"
    assert _fused(plain) == ""
