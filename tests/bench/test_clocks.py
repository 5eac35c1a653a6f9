"""Remarks about clocks that moved, and the names that the driver's library must have."""

import pytest

from patch_compile.bench.clocks import Watch
from patch_compile.hardware import nvml
from patch_compile.hardware.nvml import Sample


def watch(*samples):
    every = iter([Sample(300, 405, 20.0, 30), *samples, Sample(1200, 9501, 90.0, 60)])
    watching = Watch(lambda: next(every))
    for _ in samples:
        watching.look()
    return watching


def test_steady_clocks_warn_of_nothing():
    watching = watch(*(Sample(1700 + i, 9501, 200.0 + i, 60) for i in range(5)))
    assert list(watching.warnings()) == []
    row = watching.row()
    assert row["before"]["sm_mhz"] == 300 and row["after"]["sm_mhz"] == 1200 and row["samples"] == 5
    assert row["during"]["sm_mhz"] == {"min": 1700, "median": 1702, "max": 1704}
    assert row["during"]["watts"]["max"] == 204.0


def test_a_clock_that_moved_and_what_held_it_down_are_said():
    watching = watch(
        Sample(1800, 9501, 250, 70),
        Sample(1620, 9501, 299, 80, ("its power limit",)),
        Sample(1800, 9501, 250, 70),
    )
    moved, slowed = watching.warnings()
    assert moved.startswith("the SM clock moved by 10% while times were taken (1620 … 1800 MHz)")
    assert "nvidia-smi --lock-gpu-clocks" in moved
    assert slowed == "the GPU's clocks were held down while times were taken, by its power limit"
    assert watching.row()["slowed"] == ["its power limit"]


def test_a_run_without_a_round_has_no_spread():
    assert watch().row()["during"]["sm_mhz"] is None and list(watch().warnings()) == []


def test_nvidias_library_has_every_name_that_is_used():
    """Without a GPU, only the library's names can be tested."""
    pynvml = pytest.importorskip("pynvml")
    names = [*nvml.SLOWED_BY, "NVML_CLOCK_SM", "NVML_CLOCK_MEM", "NVML_TEMPERATURE_GPU", "NVMLError"]
    names += [
        "nvmlInit",
        "nvmlSystemGetDriverVersion",
        "nvmlDeviceGetHandleByPciBusId",
        "nvmlDeviceGetClockInfo",
    ]
    names += ["nvmlDeviceGetMemoryInfo", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetTemperature"]
    names += ["nvmlDeviceGetCurrentClocksEventReasons"]
    assert not [name for name in names if not hasattr(pynvml, name)]


def test_without_a_driver_the_reason_is_told():
    found, why = nvml.open_nvml()
    if found is None:
        assert why
    else:  # on a machine with a GPU
        assert found.sample().sm_mhz > 0 and found.driver
