"""Every file operation of a build fails once in every way, or is the last of the process."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from patch_compile.engine.backend import BackendName
from patch_compile.plugin.build import build_plugin
from tests.attacks.attack import RESULTS, Attack
from tests.attacks.faults.runs import runner
from tests.attacks.faults.scenario import SCENARIOS
from tests.attacks.faults.shim import Fault
from tests.attacks.faults.sweep import Attempt, Sweep, attempts

__all__ = ["WORDS", "run", "run_scenario", "wanted"]

WORDS = {
    Fault.KILL: "killed before a file operation",
    Fault.FULL: "disk full from a file operation on",
    Fault.EIO: "input/output error of one file operation",
    Fault.TORN: "killed with a write half done",
    Fault.POWER: "power cut: killed, and what was not flushed is lost",
    Fault.EIO_READ: "input/output error of one file operation that reads",
    Fault.INTERRUPT: "Ctrl-C at a file operation",
    Fault.TERMINATE: "SIGTERM at a file operation",
    Fault.HANG_UP: "SIGHUP at a file operation",
}
# Number of attempts; the other scenarios have all.
_SAMPLED = {"TensorRT-RTX": 60, "magnitude over an earlier build": 150}
_SMALL = 10
_PLUGINS = RESULTS.parent / "plugin"  # compiled once, for the caches of all processes


def run(small: bool, seed: int = 0) -> list[Attack]:
    """Returns the results by scenario and fault. small: some ten attempts of the fastest scenario."""
    if small:
        name = next(iter(SCENARIOS))
        return _by_fault(name, _share(name, _SMALL, seed, 0, 1))
    return [one for name in SCENARIOS for one in run_scenario(name, _SAMPLED.get(name), seed)]


def run_scenario(name: str, count: int | None = None, seed: int = 0) -> list[Attack]:
    """Returns the results of a scenario by fault. count: of attempts, drawn with this seed; None for all of them."""
    if SCENARIOS[name].engine:
        build_plugin(BackendName.TENSORRT_RTX, cache_dir=_PLUGINS)
    return _by_fault(name, _shared_out(name, count, seed))


def _by_fault(name: str, tried: Iterable[Attempt]) -> list[Attack]:
    by_fault = defaultdict(list)
    for attempt in tried:
        by_fault[attempt.fault].append(attempt)
    return [
        Attack.of(f"{WORDS[fault]} ({name})", len(of), [str(one) for one in of if one.problems])
        for fault, of in sorted(by_fault.items())
    ]


def wanted(sweep: Sweep, count: int | None, seed: int) -> Sequence[tuple[Fault, int]]:
    """Returns all faults at all operations, or `count` of them, drawn at random and spread over the run."""
    changes = [one for one in sweep.operations if one.kind != "r"]
    reads = [one for one in sweep.operations if one.kind == "r"]
    able = {
        Fault.KILL: changes,
        Fault.FULL: [one for one in changes if one.kind == "g"],
        Fault.EIO: changes,
        Fault.TORN: [one for one in changes if one.name == "write"],
        Fault.POWER: changes,
        Fault.EIO_READ: reads,
        Fault.INTERRUPT: changes,
        Fault.TERMINATE: changes[::10],  # they end the process as a kill does
        Fault.HANG_UP: changes[::10],
    }
    every = sorted((one.number / len(of), fault, one.number) for fault, of in able.items() for one in of)
    if count is not None:
        drawn = random.Random(seed)
        step = len(every) / count
        every = [every[int((i + drawn.random()) * step)] for i in range(count)]
    return [(fault, number) for _, fault, number in every]


def _shared_out(name: str, count: int | None, seed: int) -> list[Attempt]:
    """The attempts of as many processes as there are cores."""
    processes = os.cpu_count() or 1
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        shares = [pool.submit(_share, name, count, seed, i, processes) for i in range(processes)]
        return [attempt for share in shares for attempt in share.result()]


def _share(name: str, count: int | None, seed: int, process: int, processes: int) -> list[Attempt]:
    """The attempts of one process, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        here = Path(folder).resolve()
        if SCENARIOS[name].engine:
            shutil.copytree(_PLUGINS, here / "cache/patch-compile/plugin")
        with runner(here / "runner", here / "cache") as made:
            sweep = Sweep(SCENARIOS[name], made, here / "place")
            return list(attempts(sweep, wanted(sweep, count, seed)[process::processes]))
