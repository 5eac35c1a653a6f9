"""Samples of clocks, and the names that the driver's library must have."""

import pytest

from patch_compile.artifacts.bench import ClockSample, SlowedBy, Spread
from patch_compile.timing import device
from patch_compile.timing.run import Watch


def sample(sm: float, memory: float, watts: float, celsius: float, *slowed: SlowedBy) -> ClockSample:
    return ClockSample(sm_mhz=sm, memory_mhz=memory, watts=watts, celsius=celsius, slowed=slowed)


def watch(*samples):
    every = iter([sample(300, 405, 20.0, 30), *samples, sample(1200, 9501, 90.0, 60)])
    watching = Watch(lambda: next(every))
    for _ in samples:
        watching.look()
    return watching


def test_clocks_are_summed_up():
    clocks = watch(*(sample(1700 + i, 9501, 200.0 + i, 60) for i in range(5))).clocks()
    assert clocks.before.sm_mhz == 300 and clocks.after.sm_mhz == 1200 and clocks.samples == 5
    assert clocks.during.sm_mhz == Spread(min=1700, median=1702, max=1704)
    assert clocks.during.watts.max == 204.0
    assert clocks.slowed == ()


def test_clock_limits_are_recorded_once():
    held = sample(1620, 9501, 299, 80, SlowedBy.POWER_LIMIT)
    assert watch(sample(1800, 9501, 250, 70), held, held).clocks().slowed == (SlowedBy.POWER_LIMIT,)


def test_a_run_without_a_round_has_no_spread():
    assert watch().clocks().during is None


def test_nvidias_library_has_every_name_that_is_used():
    """Without a GPU, only the library's names can be tested."""
    pynvml = pytest.importorskip("pynvml")
    names = [*device.SLOWED_BY, "NVML_CLOCK_SM", "NVML_CLOCK_MEM", "NVML_TEMPERATURE_GPU", "NVMLError"]
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
    found, why = device.open_nvml()
    if found is None:
        assert why
    else:  # on a machine with a GPU
        assert found.sample().sm_mhz > 0 and found.driver
