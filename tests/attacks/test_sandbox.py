"""The judge of hostile inputs sees each thing that a command may do wrong. Otherwise every input would pass."""

import os
import signal
import sys
from pathlib import Path

import pytest

from patch_compile.cli import app
from tests.attacks import sandbox
from tests.attacks.sandbox import Case, judged


def _say(text, code=1):
    sys.stderr.write(text)
    sys.exit(code)


def _raise():
    raise ValueError("stranger")


def _allocate():
    try:  # far beyond, since the process may have given memory back after it was measured
        bytearray(2 * sandbox.MEMORY)
    except MemoryError:
        _say("error: There is not enough memory for stranger")


def _spin():
    while True:
        pass


FAULTS = {
    "exits with 70": lambda: _say("error: stranger", 70),
    "exits with 99": _raise,
    "prints 'Traceback": lambda: _say("stranger Traceback (most recent call last)"),
    "prints 'RuntimeWarning:'": lambda: _say("x.py:1: RuntimeWarning: stranger"),
    "complains without naming stranger": lambda: _say("error: something"),
    r"prints the control character '\x1b'": lambda: _say("\x1b[31mstranger"),
    r"prints the control character '\u202e'": lambda: _say("stranger \u202e"),
    "dies of SIGSEGV": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "needs more than": _allocate,
    "takes more than": _spin,
    "waits for ever": signal.pause,
    "runs code of the input": lambda: Path(os.environ["HOSTILE_CANARY"]).touch(),
    "writes outside": lambda: Path("../outside").write_text("x"),
    "writes case/litter": lambda: Path("litter").touch(),
    "removes case/stranger": lambda: Path("stranger").unlink(),
    None: lambda: (Path("out").touch(), _say("error: stranger")),
}


def _faults(make, folder):
    found = judged(Case("name", make, "inspect stranger"), folder, folder / "box")
    assert not (folder / "box").exists()
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(monkeypatch, tmp_path, fault):
    monkeypatch.setattr(app, "main", lambda: (FAULTS[fault](), sys.exit(0)))
    monkeypatch.setattr(sandbox, "SECONDS", 1)
    found = _faults(lambda sound, place: (place / "stranger").touch(), tmp_path)
    assert any(one.startswith(fault) for one in found) if fault else found == [], found


def test_unmakeable_inputs_are_faults(tmp_path):
    assert "could not be made" in _faults(lambda sound, place: _raise(), tmp_path)
