"""Some file operations of a build fail or are its last, one at a time; `make torture` does so with every one."""

import pytest

from tests.attacks.faults.attacks import run
from tests.attacks.faults.shim import COMPILER

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")


def test_a_build_survives_faults_at_operations_of_every_stage():
    attacks = run(small=True)
    assert sum(one.tried for one in attacks) >= 8 and len(attacks) >= 3
    assert [line for one in attacks for line in one.broken] == []
