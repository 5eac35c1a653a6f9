"""Puts into words what `bench` timed, and what makes its times doubtful."""

from __future__ import annotations

from collections.abc import Iterator

from patch_compile.artifacts.bench import BenchReport, Clocks, Contender, Library, Phase, SlowedBy, Spread

__all__ = ["IN_PHASE", "LIBRARY_NAMES", "bench_notes", "clock_words", "timed_words"]

LIBRARY_NAMES = {
    Library.ONNX_RUNTIME: "ONNX Runtime",
    Library.TENSORRT: "TensorRT",
    Library.TENSORRT_RTX: "TensorRT-RTX",
}
# Phases of predicted and of measured times, within a sentence about a speed.
IN_PHASE: dict[str, str] = {
    "end_to_end": "end to end",
    Phase.PREFILL: "in prefill",
    Phase.DECODE: "in decode",
    Phase.WHOLE: "for a whole run",
}
_UNIFORM = (
    "uniform 2:4: every tile of every covered linear, by magnitude, compiled as the hybrid model was; which weights are "
    "kept makes no difference to time"
)
_BUSY = 0.25  # share of the cores; less work beside the models hardly shows
_STEADY = 0.03  # share of the median clock; a larger movement shows in the times
_SLOWED = {
    SlowedBy.POWER_LIMIT: "its power limit",
    SlowedBy.HARDWARE: "the hardware",
    SlowedBy.TEMPERATURE: "its temperature",
    SlowedBy.POWER_SUPPLY: "the power supply",
}


def timed_words(report: BenchReport) -> str:
    """Returns the form of the models, and the place that they were timed in."""
    device, library = report.device, LIBRARY_NAMES[report.runner]
    if not report.runner.on_gpu:
        return (
            f"ONNX files in {library} {device.backend_version} on the CPU ({device.name}, {device.cores} cores). It says "
            "nothing about a GPU, nor about what 2:4 gains: ONNX Runtime has no 2:4 kernels, and runs PatchLinear as the "
            "function it is defined by, a dense product of weights that are unpacked when the model is loaded"
        )
    return (
        f"engines of {library} {device.backend_version} on {device.name}, by the GPU's clock (CUDA events): inputs are "
        "there before and outputs stay there; a prompt runs as it is queued, a decode step as a CUDA graph, as the "
        "runtime runs them; nothing is sampled"
    )


def bench_notes(report: BenchReport) -> Iterator[str]:
    """Yield remarks on the models and on the reliability of their times."""
    if Contender.UNIFORM in report.models:
        yield _UNIFORM
    yield from report.notes
    if report.busy >= _BUSY:
        yield (
            f"other processes keep {report.busy:.0%} of the cores busy: times are longer than they need be; the models take "
            "turns, so that their ratios hold better"
        )
    if report.clocks:
        yield from _clock_warnings(report.clocks)


def clock_words(clocks: Clocks | None) -> Iterator[str]:
    """Yield the range of each of a GPU's figures during the timing, such as `SM clock 1695 MHz`."""
    if clocks is None or clocks.during is None:
        return
    during = clocks.during
    yield f"SM clock {_range(during.sm_mhz)} MHz"
    yield f"memory {_range(during.memory_mhz)} MHz"
    yield f"{_range(during.watts)} W"
    yield f"{_range(during.celsius)} °C"


def _clock_warnings(clocks: Clocks) -> Iterator[str]:
    """Yield warnings about clocks that make the times doubtful."""
    if during := clocks.during:
        for what, lock, seen in (
            ("SM", "--lock-gpu-clocks", during.sm_mhz),
            ("memory", "--lock-memory-clocks", during.memory_mhz),
        ):
            moved = (seen.max - seen.min) / seen.median
            if moved > _STEADY:
                yield (
                    f"the {what} clock moved by {moved:.0%} while times were taken ({_range(seen)} MHz); the models took "
                    f"turns, so their ratios hold better than the times: lock it with nvidia-smi {lock}"
                )
    if clocks.slowed:
        reasons = ", ".join(dict.fromkeys(_SLOWED[one] for one in clocks.slowed))
        yield f"the GPU's clocks were held down while times were taken, by {reasons}"


def _range(seen: Spread) -> str:
    low, high = f"{seen.min:.0f}", f"{seen.max:.0f}"
    return low if low == high else f"{low} … {high}"
