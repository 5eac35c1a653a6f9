import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from benchmarks import checkpoints, memory
from benchmarks.quality.page import page
from benchmarks.quality.run import arguments

TINY = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40,
}  # fmt: skip


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    config = checkpoints.SHAPES["llama-2-7b"] | TINY | {"num_hidden_layers": 5}
    monkeypatch.setitem(checkpoints.SHAPES, "llama-2-7b", config)
    return config


def test_the_checkpoint_loads_in_transformers(tmp_path: Path, shapes: dict[str, Any]) -> None:
    checkpoints.write_checkpoint(tmp_path / "model", shapes)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    weights = model.state_dict()
    assert weights["model.layers.4.self_attn.k_proj.weight"].shape == (16, 32)
    assert abs(float(weights["lm_head.weight"].float().std()) - 0.02) < 0.002


def test_measured_rows_scale_to_all_blocks(
    tmp_path: Path, shapes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state.json"
    command = ["--windows", "4", "--length", "16", "--state", str(state), "--scratch", str(tmp_path / "s")]
    assert memory.main(command) == 0
    row = json.loads(state.read_text())["memory-llama-2-7b"]
    assert row["reached"] == pytest.approx(0.4, abs=0.05)
    assert {"scoring", "solving", "sensitivity of the loss"} <= set(row["stages"])
    assert 0.1 < row["peak_gib"] < 4
    assert row["whole"]["hours"] == pytest.approx(row["seconds"] * 5 / 2 / 3600, abs=0.006)
    assert not list((tmp_path / "s").iterdir())
    assert "GiB" in capsys.readouterr().out
    assert memory.main([*command, "--limit", "0.01"]) == 1
    text = page([], arguments([str(tmp_path), "--calib", str(state), "--eval", str(state)]), [row])
    assert "| llama-2-7b | 4 × 16 | 2 |" in text


def test_every_further_block_keeps_its_patterns() -> None:
    row = {"blocks": 2, "seconds": 720.0, "peak_gib": 4.0, "kept_gib_a_block": 0.05}
    assert memory.extrapolated(row, 32) == {"hours": 3.2, "peak_gib": 5.5}
