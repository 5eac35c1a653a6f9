import sys
from pathlib import Path

import pytest

from tests.refusals import refused

PIECE = """
from {package} import KINDS

@KINDS.register
class {name}:
    name, place = "{lower}", {place}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with three classes in files, one in a subfolder."""
    package = tmp_path / "pieces"
    (package / "shared").mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from masklearn.base.registry import Registry\nKINDS = Registry('pieces', order=lambda kind: kind.place)\n"
    )
    for place, name in enumerate(("Rook", "Bishop")):
        text = PIECE.format(package="pieces", name=name, lower=name.lower(), place=place)
        (package / f"{name.lower()}.py").write_text(text)
    (package / "shared" / "__init__.py").write_text("raise ImportError('not one of the classes')")
    monkeypatch.syspath_prepend(tmp_path)
    yield "pieces"
    for module in [name for name in sys.modules if name.split(".")[0] == "pieces"]:
        del sys.modules[module]


def test_folders_are_read_lazily_in_order(folder: str) -> None:
    kinds = __import__(folder).KINDS
    assert "pieces.rook" not in sys.modules
    assert list(kinds) == ["rook", "bishop"]
    assert kinds["rook"].__name__ == "Rook" and len(kinds) == 2 and "shared" not in kinds


def test_a_name_is_taken_once(folder: str) -> None:
    kinds = __import__(folder).KINDS
    rook = kinds["rook"]
    assert kinds.register(rook) is rook
    with refused(RuntimeError):
        kinds.register(type("Other", (), {"name": "rook"}))


def test_a_file_that_fails_is_not_passed_over(folder: str, tmp_path: Path) -> None:
    (tmp_path / "pieces" / "broken.py").write_text("raise ImportError('broken')")
    kinds = __import__(folder).KINDS
    for _ in range(2):
        with pytest.raises(ImportError, match="broken"):
            list(kinds)
