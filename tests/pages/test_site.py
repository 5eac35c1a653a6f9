"""The site builds without a warning; pages made from code agree with the code, and links lead to places on the site."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages.page import ROOT


def test_errors_are_those_of_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    catalogue = importlib.import_module("error_catalogue")
    known = {"PatchCompileError": 1, "UsageError": 2, "AccuracyError": 3, "SpeedError": 4}
    assert known.items() <= catalogue.exit_codes().items()
    found = list(catalogue.messages())
    assert len(found) > 250 and {one.room.partition(".")[0] for one in found} == {
        "patch_compile",
        "masklearn",
    }
    fixes = {one.fix for one in found if one.what == "The text at … is too short"}
    assert "Give a longer text, or fewer or shorter windows." in fixes
    assert "| The text at … is too short |" in catalogue.catalogue()


def test_formats_name_each_file_of_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    page = importlib.import_module("file_formats").formats()
    for title in (
        "masks.safetensors",
        "manifest.json",
        "plan.json",
        "report.json",
        "bench/bench.json",
        "verify/verify.json",
    ):
        assert f"\n## {title}\n" in page
    assert "| `sha256` | str |" in page and "object at 0x" not in page


@pytest.mark.pages
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="`make docs-test` installs the extra docs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {"index.html", "tutorial", "howto", "explanation", "reference", "status"} <= {
        path.name for path in (tmp_path / "site").iterdir()
    }
