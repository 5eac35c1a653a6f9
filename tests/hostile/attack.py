"""All hostile inputs as attacks of `make torture`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.hostile.cases import KINDS
from tests.torture.attack import Attack

__all__ = ["run"]


def run(small: bool) -> list[Attack]:
    """Returns one attack for each kind of input. It counts inputs; one that breaks any of its commands is broken."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        to = Path(folder) / "verdicts.jsonl"
        command = [sys.executable, "-m", "tests.hostile", "--to", str(to), *(["--sample"] if small else [])]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise RuntimeError(done.stderr)
        verdicts = [json.loads(line) for line in to.read_text().splitlines()]
    attacks = []
    for kind, words in KINDS.items():
        names = {one["name"] for one in verdicts if one["kind"] == kind}
        broken = {
            one["name"]: f"{kind}: {one['name']} | {one['command']} | {'; '.join(one['faults'])}"
            for one in verdicts
            if one["kind"] == kind and one["faults"]
        }
        attacks.append(Attack.of(words, len(names), broken.values()))
    return attacks
