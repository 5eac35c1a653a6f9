"""How `kernels/launch.cpp` launches a kernel, by a CUDA runtime that launches nothing."""

import ctypes
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from patch_compile.hardware.cards import rated_cards
from patch_compile.planning.roofline.choice import limits_of, turns_of
from tests.plugins.compiled import compiled
from tests.plugins.host_kernel import COMPILER, HOST_FLAGS, PLUGINS, Device
from tests.plugins.machine_code import NVCC
from tests.plugins.tidy import cuda_headers

pytestmark = pytest.mark.skipif(NVCC is None or COMPILER is None, reason="no compiler, or no CUDA headers")

STAND_IN = Path(__file__).parents[1] / "stand_in_runtime.cpp"
INVALID_CONFIGURATION, NO_IMAGE = 9, 209
NEW, OLD = 12030, 12020  # drivers


class _Launch(ctypes.Structure):
    """`Launch` of the stand-in."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("driver", "code", "device", "shared_bytes")),
        *((name, ctypes.c_int64) for name in ("blocks", "kernel")),
    )


class Process:
    """A copy of `kernels/launch.cpp` that has launched nothing yet."""

    def __init__(self, library):
        self._library = ctypes.CDLL(library)

    def start(self, driver=NEW, code=90, blocks=7, shared=1024, kernel=1, device=0):
        """The error, and of the launch: blocks, threads, shared memory, and if it may begin early."""
        out = (ctypes.c_int64 * 4)()
        launch = _Launch(driver, code, device, shared, blocks, kernel)
        error = self._library.patch_start(ctypes.byref(launch), out)
        return error, list(out)

    def device(self, card, number, driver_name):
        """What the library finds of a card of the table, in a driver's words."""
        bus = 384
        told = _Card(
            card.sms, card.rates.shared[1] << 10, card.l2 << 20, round(card.clock * 1e6),
            round(card.bandwidth * 1e6 * 8 / bus / 2), bus, *divmod(card.sm, 10), driver_name.encode(),
        )  # fmt: skip
        found = Device()
        assert self._library.patch_device(ctypes.byref(told), number, ctypes.byref(found)) == 0
        return found

    def asked(self):
        """How often the driver's version and the code of a kernel were asked for."""
        counts = (ctypes.c_int * 2)()
        self._library.patch_asked(counts)
        return tuple(counts)


class _Card(ctypes.Structure):
    """`Card` of the stand-in."""

    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in ("sms", "shared_bytes", "l2_bytes", "clock", "memory_clock", "bus", "major", "minor")
        ),
        ("name", ctypes.c_char * 64),
    )


@pytest.fixture
def process(library_cache, tmp_path):
    sources = [STAND_IN, PLUGINS / "kernels/launch.cpp"]
    command = [COMPILER, *HOST_FLAGS, "-Wl,-Bsymbolic", "-I", str(PLUGINS), "-isystem", str(cuda_headers())]
    read = [*sources, *PLUGINS.glob("kernels/*.h")]
    library = compiled(library_cache, [*command, *map(str, sources)], COMPILER, read, "start.so")
    return Process(shutil.copy(library, tmp_path / "start.so"))


@pytest.mark.parametrize("code", [90, 120])
def test_code_that_waits_may_begin_early(process, code):
    assert process.start(code=code) == (0, [7, 128, 1024, 1])


@pytest.mark.parametrize("about", [{"code": 80}, {"code": 89}, {"driver": OLD}])
def test_other_code_and_drivers_begin_in_turn(process, about):
    assert process.start(**about) == (0, [7, 128, 1024, 0])


def test_the_user_can_turn_early_launches_off(process, monkeypatch):
    monkeypatch.setenv("PATCH_PDL", "0")
    assert process.start()[1][3] == 0


def test_the_runtime_is_asked_once_for_a_device_and_a_kernel(process, monkeypatch):
    """In all threads. Devices may have code of other architectures, and the driver and the user's choice stay."""
    launches = [
        {"kernel": kernel, "device": device, "code": 80 + 10 * (kernel + device > 1)}
        for kernel in (1, 2)
        for device in (0, 1)
    ]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda about: process.start(**about)[1][3], 16 * launches))
    assert found == 16 * [0, 1, 1, 1] and process.asked() == (1, 4)
    monkeypatch.setenv("PATCH_PDL", "0")
    assert process.start(driver=OLD)[1][3] == 0 and process.start(driver=OLD, kernel=2)[1][3] == 1
    assert process.asked() == (1, 4)


def test_a_failed_question_is_asked_again(process):
    assert process.start(code=0)[0] == NO_IMAGE
    assert process.start() == (0, [7, 128, 1024, 1])


def test_kernels_get_the_shared_memory_they_need(process):
    assert process.start(shared=72 << 10) == (0, [7, 128, 72 << 10, 1])


def test_a_grid_beyond_cudas_limit_is_refused(process):
    assert process.start(blocks=1 << 31)[0] == INVALID_CONFIGURATION


def test_the_library_finds_what_is_planned_for(process):
    """All but a few bytes of DRAM, since drivers round clocks."""
    for number, card in enumerate(rated_cards()):
        brand = "NVIDIA GeForce" if card.is_geforce else "NVIDIA"
        found, planned = process.device(card, 100 + number, f"{brand} {card.name}"), limits_of(card)
        assert found.dram == pytest.approx(planned.dram, abs=8)
        for name in ("sms", "shared_bytes", "l2_bytes", "sm", "geforce"):
            assert getattr(found, name) == getattr(planned, name), (card.name, name)
        assert found.dense_fma == turns_of(card.sm, geforce=card.is_geforce).dense_fma > 0
