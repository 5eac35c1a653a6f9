"""The notebook runs from its first cell to its last, on a build of a tiny model, and shows pictures."""

import sys
from pathlib import Path

import pytest

from tests.pages.page import ROOT
from tests.pages.place import build_what_a_page_takes_for_granted, placed

pytestmark = pytest.mark.pages


def test_it_runs_and_shows_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nbclient", reason="`make docs-test` installs the extra docs")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from notebook import NOTEBOOK, executed

    with placed(tmp_path, monkeypatch):
        build_what_a_page_takes_for_granted(tmp_path)
        (tmp_path / "out").mkdir()
        (tmp_path / "OUT").rename(tmp_path / "out/smollm2")
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        shown = executed(tmp_path)
    kinds = [
        kind for cell in shown.cells for output in cell.get("outputs", []) for kind in output.get("data", {})
    ]
    assert kinds.count("image/png") == 3 and "text/html" in kinds
    assert str(ROOT) not in NOTEBOOK.read_text()
    sys.modules.pop("notebook")
