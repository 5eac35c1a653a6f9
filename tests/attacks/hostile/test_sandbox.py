"""The judge of hostile inputs sees each thing that a command may do wrong."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tests.attacks.hostile.sandbox as sandbox
from patch_compile.cli import app
from tests.attacks.hostile.case import Case, Sound
from tests.work import until


def _say(text: str, code: int = 1) -> None:
    sys.stderr.write(text)
    sys.exit(code)


def _write(path: str) -> None:
    Path(path).write_text("x")


def _raise() -> None:
    raise ValueError("stranger")


def _allocate() -> None:
    try:
        bytearray(
            2 * sandbox.MEMORY
        )  # far beyond, since the process may have given memory back after it was measured
    except MemoryError:
        _say("error: There is not enough memory for stranger")


def _spin() -> None:
    while True:
        pass


FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "internal error": (lambda: _say("error: stranger", 70), "exits with 70"),
    "escaped exception": (_raise, "exits with 99"),
    "traceback": (lambda: _say("stranger Traceback (most recent call last)"), "prints 'Traceback"),
    "warning": (lambda: _say("x.py:1: RuntimeWarning: stranger"), "prints 'RuntimeWarning:'"),
    "no name": (lambda: _say("error: something"), "complains without naming stranger"),
    "colours": (lambda: _say("\x1b[31mstranger"), r"prints the control character '\x1b'"),
    "writing turns": (lambda: _say("stranger \u202e"), "prints the control character"),
    "crash": (lambda: os.kill(os.getpid(), signal.SIGSEGV), "dies of SIGSEGV"),
    "memory": (_allocate, "needs more than"),
    "computing": (_spin, "takes more than"),
    "waiting": (signal.pause, "waits for ever"),
    "code": (lambda: _write(os.environ["HOSTILE_CANARY"]), "runs code of the input"),
    "file outside": (lambda: _write("../outside"), "writes outside"),
    "file beside": (lambda: _write("litter"), "writes case/litter"),
    "removed file": (lambda: Path("stranger").unlink(), "removes case/stranger"),
}


def _verdict(monkeypatch: pytest.MonkeyPatch, folder: Path, does: Callable[[], object]) -> sandbox.Verdict:
    def main() -> None:
        does()
        sys.exit(0)

    monkeypatch.setattr(app, "main", main)
    monkeypatch.setattr(sandbox, "SECONDS", 1)
    case = Case("kind", "name", lambda sound, place: _write(str(place / "stranger")), ("inspect stranger",))
    running = sandbox.start(case, case.commands[0], Sound(folder), folder / "box")
    return _end_of(running)


def _end_of(running: sandbox.Running) -> sandbox.Verdict:
    found: list[sandbox.Verdict | None] = []
    until(
        lambda: found.append(running.poll()) or found[-1] is not None, "the command neither ends nor is ended"
    )
    (*_, verdict) = found
    assert verdict
    return verdict


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    does, fault = FAULTS[name]
    verdict = _verdict(monkeypatch, tmp_path, does)
    assert any(one.startswith(fault) for one in verdict.faults), verdict


@pytest.mark.parametrize(
    "does", [lambda: _say("error: stranger"), lambda: _write("out"), lambda: sys.exit(0)]
)
def test_a_good_end_holds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, does: Callable[[], object]
) -> None:
    verdict = _verdict(monkeypatch, tmp_path, does)
    assert verdict.held, verdict
    assert not (tmp_path / "box").exists()


def test_an_input_that_can_not_be_made_is_a_fault(tmp_path: Path) -> None:
    case = Case("kind", "name", lambda sound, place: _raise(), ("inspect stranger",))
    running = sandbox.start(case, case.commands[0], Sound(tmp_path), tmp_path / "box")
    assert "could not be made" in _end_of(running).faults
