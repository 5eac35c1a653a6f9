"""A sample of the hostile inputs: three of each kind. `make torture ATTACKS=hostile` runs all."""

import json
import subprocess
import sys

from tests.attacks.hostile.cases import KINDS


def test_hostile_inputs_are_refused_or_harmless(tmp_path):
    to = tmp_path / "results.jsonl"
    command = [sys.executable, "-m", "tests.attacks", "hostile", "--small", "--results", to]
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    found = [json.loads(line) for line in to.read_text().splitlines()]
    assert [(one["attack"], one["tried"]) for one in found] == [(words, 3) for words in KINDS.values()]
    assert [line for one in found for line in one["broken"]] == []
