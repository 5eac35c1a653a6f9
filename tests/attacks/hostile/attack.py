"""All hostile inputs as attacks of `make torture`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.attacks.attack import Attack
from tests.attacks.hostile.cases import KINDS

__all__ = ["attacks_of", "run"]


def run(small: bool) -> list[Attack]:
    """Returns one attack for each kind of input. It counts inputs; one that breaks any of its commands is broken."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        to = Path(folder) / "verdicts.jsonl"
        command = [
            sys.executable,
            "-m",
            "tests.attacks.hostile",
            "--to",
            str(to),
            *(["--sample"] if small else []),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise RuntimeError(done.stderr)
        verdicts = [json.loads(line) for line in to.read_text().splitlines()]
    return attacks_of(verdicts)


def attacks_of(verdicts: Sequence[Mapping[str, Any]]) -> list[Attack]:
    """Returns one attack for each kind of input. verdicts: lines that `python -m tests.attacks.hostile --to` writes."""
    attacks = []
    for kind, words in KINDS.items():
        mine = [one for one in verdicts if one["kind"] == kind]
        broken = {one["name"]: _line(one) for one in mine if one["faults"]}
        if mine:
            attacks.append(Attack.of(words, len({one["name"] for one in mine}), broken.values()))
    return attacks


def _line(verdict: Mapping[str, Any]) -> str:
    return "{kind}: {name} | {command} | ".format(**verdict) + "; ".join(verdict["faults"])
