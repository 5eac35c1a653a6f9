"""Words on times: what was timed, and what makes the times doubtful."""

from patch_compile.artifacts.bench import BenchReport, Clocks, Library, SlowedBy, Spread
from patch_compile.report.bench import bench_notes, clock_words, timed_words
from tests.artifacts.benched import benched


def with_sm_clock(low: float, high: float) -> BenchReport:
    report = benched()
    assert report.clocks and report.clocks.during
    seen = Spread(min=low, median=high, max=high)
    during = report.clocks.during.model_copy(update={"sm_mhz": seen})
    return report.model_copy(update={"clocks": report.clocks.model_copy(update={"during": during})})


def test_times_of_a_cpu_say_nothing_about_a_gpu() -> None:
    assert "It says nothing about a GPU" in timed_words(benched(Library.ONNX_RUNTIME))
    said = timed_words(benched())
    assert said.startswith("engines of TensorRT 11.0 on NVIDIA GeForce RTX 3090, by the GPU's clock")


def test_steady_clocks_of_an_idle_machine_are_no_remark() -> None:
    (only,) = bench_notes(with_sm_clock(1660, 1700))
    assert only.startswith("uniform 2:4: every tile")


def test_a_clock_that_moved_is_warned_of() -> None:
    _, moved = bench_notes(with_sm_clock(1620, 1800))
    assert moved.startswith("the SM clock moved by 10% while times were taken (1620 … 1800 MHz)")
    assert "nvidia-smi --lock-gpu-clocks" in moved


def test_what_held_the_clocks_down_is_said() -> None:
    report = benched()
    assert report.clocks
    slowed = (SlowedBy.POWER_LIMIT, SlowedBy.TEMPERATURE)
    clocks: Clocks = report.clocks.model_copy(update={"slowed": slowed})
    _, said = bench_notes(report.model_copy(update={"clocks": clocks}))
    assert said == (
        "the GPU's clocks were held down while times were taken, by its power limit, its temperature"
    )


def test_other_work_is_said_from_a_quarter_of_the_cores_on() -> None:
    assert len(list(bench_notes(benched().model_copy(update={"busy": 0.24})))) == 1
    _, busy = bench_notes(benched().model_copy(update={"busy": 0.5}))
    assert busy.startswith("other processes keep 50% of the cores busy")


def test_ranges_of_clocks() -> None:
    assert list(clock_words(benched().clocks)) == [
        "SM clock 1695 MHz", "memory 9501 MHz", "281 … 330 W", "61 … 66 °C"
    ]  # fmt: skip
    assert list(clock_words(None)) == []
