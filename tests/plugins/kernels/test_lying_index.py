"""An index that lies: what the kernels compute is then worthless, but they touch nothing outside of their tensors."""

import pytest

from tests.plugins.configs import CONFIGS, STREAMS, case_for
from tests.plugins.host_kernel import COMPILER, CopyMode, Launch
from tests.plugins.lying_index import LIES, lying

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the host emulation")


@pytest.mark.parametrize("config", CONFIGS)
def test_no_access_leaves_a_tensor(kernel, config):
    """Rows and columns are ragged. The configurations for few tokens get several tiles of them."""
    number = CONFIGS.index(config)
    few = kernel.configs()[config].tokens <= 16
    case = case_for(kernel, config, 35 if few else 3, (130, 132), residual=True)
    for seed, lie in enumerate(LIES):
        for kind, parts in enumerate(((1, 2, 7) if few else (4,)) if config in STREAMS else (1,)):
            launch = Launch(number, seed % 2, parts, CopyMode.MIXED, seed + 1, index_lies=True)
            try:
                kernel.run(lying(case.packed, lie, kind), case.x, case.bias, launch, **case.epilogue)
            except RuntimeError as fault:
                raise AssertionError(f"{lie}, seed {seed}, {parts} parts: {fault}") from fault
