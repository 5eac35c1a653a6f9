"""Files of OUT are read as what they are, or refused by name: which version or field it is, and how to make it anew."""

import json
from pathlib import Path
from typing import Any

import pytest

from patch_compile.artifacts.engine import EngineReport
from patch_compile.errors import PatchCompileError
from tests.artifacts.examples import engine_report


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


@pytest.mark.parametrize("version, has", [(1, "version 1"), (99, "version 99"), (None, "no version")])
def test_another_version_is_refused_by_name(path: Path, version: int | None, has: str) -> None:
    content = json.loads(path.read_text()) | {"schema": version}
    path.write_text(
        json.dumps({key: value for key, value in content.items() if value is not None or key != "schema"})
    )
    with pytest.raises(PatchCompileError) as raised:
        EngineReport.read(path)
    assert str(path) in raised.value.what
    assert raised.value.why == f"It has {has}, and this program reads version {EngineReport.SCHEMA}."
    out = path.parent.parent
    assert f"patch-compile build --recipe {out}/recipe.yaml -o {out} --force" in raised.value.fix


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"patch_linears": "many"}, "patch_linears"),
        ({"sparse_tactics": {"eligible": 1}}, "sparse_tactics.chosen"),
        ({"targets": [["sm86"]]}, "targets.0"),
        ({"mood": "good"}, "mood"),
    ],
)
def test_a_broken_file_names_the_field(path: Path, changed: dict[str, Any], place: str) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(PatchCompileError) as raised:
        EngineReport.read(path)
    assert str(path) in raised.value.what and raised.value.why.startswith(f"{place}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 100_000])
def test_what_is_no_object_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(PatchCompileError, match=r"engine\.json is not the description of an engine"):
        EngineReport.read(path)
