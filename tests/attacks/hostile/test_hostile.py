"""A sample of the hostile inputs: three of each kind. `make torture ATTACKS=hostile` runs all."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.attacks.hostile.cases import KINDS

Verdicts = list[dict[str, Any]]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Verdicts:
    """What became of the sample, which runs in a process of its own: it forks, and may not have threads."""
    folder = tmp_path_factory.mktemp("hostile")
    to = folder / "verdicts.jsonl"
    command = [
        sys.executable,
        "-m",
        "tests.attacks.hostile",
        "--sample",
        "--folder",
        folder,
        "--to",
        to,
        "--jobs",
        "1",
    ]
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return [json.loads(line) for line in to.read_text().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_inputs_are_refused_or_harmless(kind: str, verdicts: Verdicts) -> None:
    mine = [one for one in verdicts if one["kind"] == kind]
    assert mine
    broken = [
        f"{one['name']} | {one['command']} | {one['faults']} | {one['output']}"
        for one in mine
        if one["faults"]
    ]
    assert not broken, "\n".join(broken)


def test_what_is_not_hostile_is_accepted(verdicts: Verdicts) -> None:
    controls = [one for one in verdicts if one["kind"] == "control"]
    assert len(controls) == 14 and {one["code"] for one in controls} == {0}
