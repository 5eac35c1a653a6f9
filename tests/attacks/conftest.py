"""One server for the tests of links and of the simulator, which run in one process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.faults.runs import Runner
from tests.attacks.simulator.simulate import serving


@pytest.fixture(scope="session")
def served() -> Iterator[tuple[Path, Runner]]:
    with serving() as made:
        yield made
