"""Fetching packages by stand-ins for pip and npm, so that no test needs a registry."""

import hashlib
import sys
from pathlib import Path

import pytest

from samples.packages import Package, fetch, have_npm, sha256_of
from tests.refusals import refused


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH with an `npm` that writes x-1.tgz to the given folder, or fails for the package `gone`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "npm"
    script.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys\n"
        "place, name = sys.argv[4], sys.argv[5]\n"
        "if name == 'gone@1':\n"
        "    sys.exit('npm error 404 gone')\n"
        "pathlib.Path(place, 'x-1.tgz').write_bytes(b'content')\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


CONTENT = hashlib.sha256(b"content").hexdigest()


def test_fetches_and_checks(npm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fetch(Package("npm", "x", "1", "x-1.tgz", CONTENT), tmp_path)
    assert path == tmp_path / "x-1.tgz"
    assert sha256_of(path) == CONTENT
    assert capsys.readouterr() == ("", "fetching x 1 by npm\n")


def test_a_relative_directory(npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("into").mkdir()
    assert fetch(Package("npm", "x", "1", "x-1.tgz", CONTENT), Path("into")) == tmp_path / "into/x-1.tgz"


def test_another_file_than_the_pinned(npm: Path, tmp_path: Path) -> None:
    with refused():
        fetch(Package("npm", "x", "1", "x-1.tgz", "0" * 64), tmp_path)


def test_the_client_fails_or_leaves_nothing(npm: Path, tmp_path: Path) -> None:
    with refused():
        fetch(Package("npm", "gone", "1", "x-1.tgz", CONTENT), tmp_path)
    with refused():
        fetch(Package("npm", "x", "1", "y-1.tgz", CONTENT), tmp_path)


def test_no_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not have_npm()
    with refused():
        fetch(Package("npm", "x", "1", "x-1.tgz", CONTENT), tmp_path)


def test_pip_is_asked_for_the_one_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the interpreter records its command and writes the wheel."""
    recorder = tmp_path / "python"
    recorder.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nprintf content > {tmp_path}/x-1.whl\n')
    recorder.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(recorder))
    fetch(Package("pip", "x", "1", "x-1.whl", CONTENT), tmp_path)
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("-m pip download --no-deps --only-binary :all:")
    assert asked.endswith(f"--dest {tmp_path} x==1\n")
