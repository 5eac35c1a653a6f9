from pathlib import Path

import pytest

from benchmarks import checkpoints, output_error

TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 40,
}


def test_narrower_weights_have_a_larger_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(checkpoints.SHAPES, "smollm2-135m", checkpoints.SHAPES["smollm2-135m"] | TINY)
    scratch = tmp_path / "scratch"
    assert (
        output_error.main(["--blocks", "2", "--windows", "4", "--length", "16", "--scratch", str(scratch)])
        == 0
    )
    assert not scratch.exists()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[4:]]
    assert [row[0] for row in rows] == ["float16", "int8", "int4"]
    rounded, pruned = ([float(row[column]) for row in rows] for column in (1, 2))
    assert rounded[0] == 0 < 5 * rounded[1] < rounded[2] < pruned[2]
    assert 0.02 < pruned[0] < 1
