"""Some steps of `python -m tests.attacks simulate`, and breaks that it must find."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks.faults.runs import Runner
from tests.attacks.faults.shim import COMPILER
from tests.attacks.simulator import unmended
from tests.attacks.simulator.simulate import BUILDERS, Simulator, simulate

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")

_STEPS = 300
_BUILD = list(BUILDERS)[3].replace("MODEL", "model").replace("OUT", "out")
_LEARN = "learn model -o out --ratio 0.4 --method magnitude --repair none --tile 32x32"
# What takes a mend back, steps that then break, and words of what is found.
_BREAKS = (
    (
        unmended.writes_through_links,
        [_BUILD, "link file out/manifest.json.tmp", "verify out --only compiled --lengths 1"],
        "precious/file changed",
    ),
    (unmended.force_takes_all, [_LEARN, "keep out/notes.txt", f"{_LEARN} --force"], "vanished"),
    (
        unmended.keys_lack_the_tokenizer,
        [_LEARN, "write 1 model/tokenizer.json", f"{_LEARN} --force"],
        "is not the result of the command",
    ),
)


def test_simulated_steps_break_nothing(served: tuple[Path, Runner]) -> None:
    found = simulate(Simulator(*served), _STEPS, seed=0)
    assert found.tried == _STEPS and list(found.broken) == []


@pytest.mark.parametrize(
    ("change", "steps", "words"), _BREAKS, ids=lambda part: getattr(part, "__name__", "")
)
def test_the_simulator_finds_an_unmended_break(
    served: tuple[Path, Runner], change: Callable[[], None], steps: list[str], words: str
) -> None:
    broken = Simulator(*served, f"{unmended.__name__}:{change.__name__}").broken(steps)
    assert broken is not None and any(words in fault for fault in broken[1]), broken
