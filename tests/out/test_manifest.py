"""A manifest names files of OUT alone, whoever wrote it."""

import json
from pathlib import Path
from typing import Any

import pytest

from patch_compile.errors import PatchCompileError
from patch_compile.out.manifest import Manifest, ModelOrigin, Ratio
from patch_compile.out.state import StageRecord, read_records

DIGEST = "0" * 64


@pytest.mark.parametrize("place", [("files",), ("stages", "masks", "files")], ids=["files", "stages"])
@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "model/../../secret", ""])
def test_files_outside_out_are_refused(tmp_path: Path, name: str, place: tuple[str, ...]) -> None:
    manifest = Manifest(
        model=ModelOrigin(path="m", sha256=DIGEST),
        ratio=Ratio(asked=0.3, reached=0.3),
        method="wanda",
        seed=0,
        versions={},
        files={"plan.json": DIGEST},
        stages={"masks": StageRecord("key", {"plan.json": DIGEST})},
    )
    path = tmp_path / "manifest.json"
    manifest.write(path)
    assert Manifest.read(path) == manifest
    content: Any = json.loads(path.read_text())
    files = content
    for key in place:
        files = files[key]
    files[name] = DIGEST
    path.write_text(json.dumps(content))
    with pytest.raises(PatchCompileError, match="outside its folder"):
        Manifest.read(path) if place == ("files",) else read_records(path)
