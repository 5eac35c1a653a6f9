import json
import os
from pathlib import Path

import pytest

from masklearn.base import safe_read
from masklearn.base.npz import ArrayArchive
from masklearn.base.safe_read import parse_json, read_json
from patch_compile.artifacts.recipe_file import read_recipe
from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.proto import load_proto
from tests.refusals import refused


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 200_000, id="nested"),
        b'{"a": "\xff\xfe"}',
        '{"a": 1, "b": {"c": 1, "c": 2}}',
        '{"a": NaN}',
        "[-Infinity]",
        r'{"a": ["\ud83d", 1]}',
        "",
        pytest.param("9" * 10_000, id="digits"),
        pytest.param("-" + "9" * 400, id="beyond-floats"),
        "[1e999]",
    ],
)
def test_what_is_no_json_has_a_reason(text: str | bytes) -> None:
    with refused(ValueError):
        parse_json(text)


def test_json_is_read(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True], "b": {"c": "é\N{GRINNING FACE}"}}
    file = tmp_path / "a.json"
    file.write_text(json.dumps(value))
    assert read_json(file) == parse_json(json.dumps(value).encode()) == value


def test_configs_may_hold_infinity() -> None:
    """transformers writes it, for example for time_step_limit."""
    assert parse_json('{"a": Infinity}', finite=False) == {"a": float("inf")}


def test_huge_files_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_read, "_MOST_BYTES", 4 << 20)
    file = tmp_path / "a.json"
    with file.open("wb") as opened:
        opened.truncate(5 << 20)
    with refused(ValueError):
        read_json(file)


@pytest.mark.parametrize(
    "read", [read_json, ArrayArchive, load_proto, read_recipe], ids=lambda one: one.__name__
)
def test_readers_refuse_fifos_and_devices(tmp_path: Path, read) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("fifo", "device", "."):
        with refused((OSError, PatchCompileError)):
            read(tmp_path / name)
