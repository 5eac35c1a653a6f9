"""Some steps of `python -m tests.attacks simulate`, and breaks that it must find."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks.faults.runs import Runner
from tests.attacks.faults.shim import COMPILER
from tests.attacks.simulator import unmended
from tests.attacks.simulator.simulate import Simulator, simulate

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")

_STEPS = 300
_SEEDS = 1_000_000
_NOTHING = r"((write|tidy|inspect|plan).*\n)*"
_TO_A_FILE = "(file|hard)"
_REWRITTEN = "(manifest.json|report.html)"
# What takes a mend back, how the steps of a seed begin that finds the break, and words of what is found.
_BREAKS = (
    (
        unmended.writes_through_links,
        rf"build model -o out .*\n{_NOTHING}link {_TO_A_FILE} out/{_REWRITTEN}.tmp\n{_NOTHING}verify out ",
        "precious/file changed",
    ),
    (
        unmended.force_takes_all,
        r"(learn|build|compile) model -o out .*\nkeep out/(notes.txt|.git)\n(learn|build|compile) model -o out .*--force",
        "vanished",
    ),
    (
        unmended.keys_lack_the_tokenizer,
        r"(learn model -o out .* 32x32).*\nwrite 1 model/(tok|gen|chat|README).*\n\1.* --force",
        "is not the result of the command",
    ),
)


def test_simulated_steps_break_nothing(served: tuple[Path, Runner]) -> None:
    found = simulate(Simulator(*served), _STEPS, seed=0)
    assert found.tried == _STEPS and list(found.broken) == []


@pytest.mark.parametrize(
    ("change", "beginning", "words"), _BREAKS, ids=lambda one: getattr(one, "__name__", "")
)
def test_the_simulator_finds_an_unmended_break(
    served: tuple[Path, Runner], change: Callable[[], None], beginning: str, words: str
) -> None:
    simulator = Simulator(*served, f"{unmended.__name__}:{change.__name__}")
    drawn = (simulator.episode(seed, 5) for seed in range(_SEEDS))
    steps = next(steps for steps in drawn if re.match(beginning, "\n".join(steps)))
    found = simulator.broken(steps)
    assert found is not None
    fewest, faults = simulator.shrunk(steps, found)
    assert len(fewest) <= 3 and any(words in fault for fault in faults), (fewest, faults)
