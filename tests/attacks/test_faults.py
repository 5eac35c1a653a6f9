"""Some file operations of a build fail or are its last, one at a time; `make torture` does so with every operation."""

import pytest

from tests.attacks.faults.shim import COMPILER
from tests.attacks.faults.sweep import attack


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
def test_builds_survive_faults_in_every_stage():
    found = attack(small=True)
    assert sum(one.tried for one in found) >= 8 and len(found) >= 3
    assert [line for one in found for line in one.broken] == []
