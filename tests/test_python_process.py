"""Pythons that the program starts neither import from the current folder nor work in it."""

import os
import sys
from contextlib import closing
from pathlib import Path

import pytest

from patch_compile.python_process import PythonProcess, run_foreign_python, run_pip


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A program that prints its folder and its arguments."""
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\npwd; ls -A; echo "$PYTHONSAFEPATH" "${PYTHONPATH-none}" "$@"\n')
    program.chmod(0o755)
    return program


def test_pip_works_in_the_given_folder(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.setattr("sys.path", ["", ".", "/a", "b", "/c"])
    done = run_pip(tmp_path / "work", "download", "x")
    assert done.stdout == f"{tmp_path / 'work'}\n1 /a:/c -m pip download x\n"


def test_a_foreign_python_works_in_an_empty_folder(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its path may be relative, or its name one of PATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/own")
    monkeypatch.setenv("PATH", f"{python.parent}{os.pathsep}{os.environ['PATH']}")
    for name in (python, Path("bin/python"), Path("python")):
        done = run_foreign_python(name, "pass", "x")
        where, said = done.stdout.splitlines()
        assert said == "1 none -c pass x"
        assert not Path(where).exists() and Path(where).parent != tmp_path


class Paths:
    """An object that lives in another process."""

    def paths(self) -> tuple[bool, list[str]]:
        return bool(sys.flags.safe_path), sys.path


def test_a_process_imports_from_the_same_absolute_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", ["", "src", *sys.path])
    with closing(PythonProcess("the test", Paths)) as process:
        safe, found = process.ask("paths")
    own = {path for path in sys.path if Path(path).is_absolute()}
    assert safe and own <= set(found) and all(Path(path).is_absolute() for path in found)
