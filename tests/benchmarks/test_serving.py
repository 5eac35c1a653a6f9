from pathlib import Path

import pytest

from benchmarks.serving import main
from patch_compile.runtime import open_generator
from tests.builds import TINY, build
from tests.conftest import texts_in, write_model


def test_both_ways_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "model", "llama", max_position_embeddings=96)
    build({"model": model, "out": tmp_path / "out", "ratio": 0.4, **texts_in(tmp_path), **TINY})
    main([str(tmp_path / "out"), "--clients", "3", "--new-tokens", "4", "--runner", "onnx"])
    *rows, last = capsys.readouterr().out.splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["1", "3"]
    assert all(float(cell) > 0 for row in rows for cell in row.split("|")[2:4])
    assert last.endswith(open_generator(tmp_path / "out", runner="onnx").decoder.name)
