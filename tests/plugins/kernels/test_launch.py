"""How `kernels/launch.cpp` launches a kernel, by a CUDA runtime that launches nothing."""

import ctypes
from pathlib import Path

import pytest

from tests.plugins.compiled import compiled
from tests.plugins.host_kernel import COMPILER, HOST_FLAGS, PLUGINS
from tests.plugins.machine_code import NVCC
from tests.plugins.tidy import cuda_headers

pytestmark = pytest.mark.skipif(NVCC is None or COMPILER is None, reason="no compiler, or no CUDA headers")

STAND_IN = Path(__file__).parents[1] / "stand_in_runtime.cpp"
INVALID_CONFIGURATION = 9
NEW, OLD = 12030, 12020  # drivers


@pytest.fixture(scope="module")
def start(library_cache):
    sources = [STAND_IN, PLUGINS / "kernels/launch.cpp"]
    command = [COMPILER, *HOST_FLAGS, "-Wl,-Bsymbolic", "-I", str(PLUGINS), "-isystem", str(cuda_headers())]
    read = [*sources, *PLUGINS.glob("kernels/*.h")]
    library = ctypes.CDLL(compiled(library_cache, [*command, *map(str, sources)], COMPILER, read, "start.so"))

    def started(driver=NEW, code=90, blocks=7, shared=1024):
        """The error, and of the launch: blocks, threads, shared memory, and if it may begin early."""
        out = (ctypes.c_int64 * 4)()
        error = library.patch_start(driver, code, ctypes.c_int64(blocks), shared, out)
        return error, list(out)

    return started


def test_code_that_waits_may_begin_early(start):
    assert start(code=90) == start(code=120) == (0, [7, 128, 1024, 1])


@pytest.mark.parametrize("about", [{"code": 80}, {"code": 89}, {"driver": OLD}])
def test_other_code_and_drivers_begin_in_turn(start, about):
    assert start(**about) == (0, [7, 128, 1024, 0])


def test_the_user_can_turn_early_launches_off(start, monkeypatch):
    monkeypatch.setenv("PATCH_PDL", "0")
    assert start()[1][3] == 0


def test_kernels_get_the_shared_memory_they_need(start):
    assert start(shared=72 << 10) == (0, [7, 128, 72 << 10, 1])


def test_a_grid_beyond_cudas_limit_is_refused(start):
    assert start(blocks=1 << 31)[0] == INVALID_CONFIGURATION
