"""A manifest names only files of OUT, whoever wrote it."""

import json
from pathlib import Path
from typing import Any

import pytest

from patch_compile.artifacts.manifest import Manifest
from patch_compile.artifacts.state import StageRecord
from tests.artifacts.stages import manifest_of
from tests.refusals import refused

DIGEST = "0" * 64


@pytest.mark.parametrize("place", [("files",), ("stages", "masks", "files")], ids=["files", "stages"])
@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../secret",
        "model/../../secret",
        "",
        pytest.param("n" * 256, id="long name"),
        pytest.param("n/" * 600, id="long path"),
    ],
)
def test_names_of_no_file_in_out_are_refused(tmp_path: Path, name: str, place: tuple[str, ...]) -> None:
    manifest = manifest_of({"masks": StageRecord("key", {"plan.json": DIGEST})})
    path = tmp_path / "manifest.json"
    manifest.write(path)
    assert Manifest.read(path) == manifest
    content: Any = json.loads(path.read_text())
    files = content
    for key in place:
        files = files[key]
    files[name] = DIGEST
    path.write_text(json.dumps(content))
    with refused():
        Manifest.read(path)
