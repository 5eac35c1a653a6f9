"""Files of OUT are read as what they are, or refused by name: which version or field it is, and how to make it anew."""

import json
from pathlib import Path
from typing import Any

import pytest

from patch_compile.artifacts.engine import EngineReport
from tests.artifacts.examples import engine_report
from tests.refusals import refused


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "out/engine").mkdir(parents=True)
    (tmp_path / "out/manifest.json").touch()
    engine_report().write(tmp_path / "out/engine/engine.json")
    return tmp_path / "out/engine/engine.json"


def test_what_is_written_is_read(path: Path) -> None:
    assert EngineReport.read(path) == engine_report()
    assert next(iter(json.loads(path.read_text()).items())) == ("schema", EngineReport.SCHEMA)
    assert EngineReport.of(path.parent.parent) == engine_report()
    assert EngineReport.of(path.parent) is None


@pytest.mark.parametrize("version", [1, 99, None])
def test_another_version_is_refused_by_name(path: Path, version: int | None) -> None:
    content = json.loads(path.read_text()) | {"schema": version}
    path.write_text(
        json.dumps({key: value for key, value in content.items() if value is not None or key != "schema"})
    )
    with refused():
        EngineReport.read(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"patch_linears": "many"},
        {"sparse_tactics": {"eligible": 1}},
        {"targets": [["sm86"]]},
        {"mood": "good"},
    ],
)
def test_a_broken_file_names_the_field(path: Path, changed: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with refused():
        EngineReport.read(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 100_000])
def test_what_is_no_object_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with refused():
        EngineReport.read(path)
