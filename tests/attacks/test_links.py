"""No command writes through a link. Links are planted at every path that a trace of the command shows it to change."""

from pathlib import Path

import pytest

from tests.attacks.faults.runs import Runner
from tests.attacks.faults.shim import COMPILER
from tests.attacks.simulator.simulate import BUILDERS, Simulator

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")

_BUILD = list(BUILDERS)[3].replace("MODEL", "model").replace("OUT", "out")
_NAMED = ("out", "other")  # a folder that the user names may be a link


@pytest.fixture(scope="module")
def simulator(served: tuple[Path, Runner]) -> Simulator:
    """A simulator whose episodes begin with a build in OUT."""
    made = Simulator(*served)
    assert made.broken([_BUILD]) is None
    made.home.keep_all()
    return made


@pytest.mark.parametrize(
    "line",
    [
        f"{_BUILD} --force",
        f"{_BUILD} --force --resume",
        "verify out --only compiled --lengths 1",
        "import-mask out/model --model model -o other --tile 32x32 --force",
        "compile model --mask masks.safetensors -o other --force",
    ],
    ids=lambda line: line.split()[0],
)
def test_no_command_writes_through_a_link(simulator: Simulator, line: str) -> None:
    paths = simulator.writes(line)
    assert paths
    for path, is_folder in paths.items():
        if is_folder and path in _NAMED:
            continue
        for kind in ("folder",) if is_folder else ("file", "hard"):
            steps = [f"link {kind} {path}", line]
            assert simulator.broken(steps) is None, (steps, simulator.broken(steps))
