"""Keeps torch's threads from spinning, freed memory in the process, and results from depending on the number of threads.

The threads of an OpenMP region wait for each other at its end. By default they spin there for milliseconds. If another
program runs on the core of one thread, the others burn their own time in waiting for it, and the scheduler then takes
that time from them when they have work again. A factorisation of a small matrix has hundreds of such regions.

Memory that is freed returns to the system by default, which fills every page with zeros when it is allocated again. The
activations of a block are allocated and freed at each call.

Masks and weights must not depend on the number of threads either, or a recipe reproduces its run on some machines only.
MKL divides a product by the number of threads unless it is told not to, and torch divides a sum over a whole tensor.
"""

import ctypes
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# libgomp, which torch's wheels for Linux contain, reads the first variable; LLVM's and Intel's OpenMP read both.
_SLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
# Products of matrices and triangular solves are then the same bytes with any number of threads ("strict CNR mode" of the
# oneMKL developer guide), and up to 10 % slower; AUTO keeps the instructions that MKL would choose.
_SAME_BYTES = {"MKL_CBWR": "AUTO,STRICT"}
# Of glibc (mallopt(3)). `learn --weights w8a8 --ratio 0 --windows 4` of the first two blocks of Qwen2.5-Coder-1.5B, with
# these sizes as MALLOC_… and without, 2 cores (AMD EPYC), 2026-12-02: 176 and 216 CPU seconds, 7.7 and 11.4 million page
# faults, peak memory 3.9 GB with both. 32 MiB is the largest that glibc takes.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT = {_M_MMAP_THRESHOLD: 32 << 20, _M_TRIM_THRESHOLD: 1 << 30}  # bytes
_COUNT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def settle_threads() -> None:
    """Let waiting threads sleep, start no more of them than this process may use cores at a time, keep freed memory for the
    next allocation, and let products of matrices not depend on the number of threads.

    OpenMP and MKL read these settings when torch is loaded, so a later call has no effect. Settings of the user stay.
    """
    if "torch" in sys.modules:
        return
    if not _user_sets_any(_WAITING):
        os.environ.update(_SLEEP)
    for name, value in _SAME_BYTES.items():
        os.environ.setdefault(name, value)
    allowed = usable_cores()
    if allowed < len(os.sched_getaffinity(0)) and not _user_sets_any(_COUNT):
        os.environ["OMP_NUM_THREADS"] = str(allowed)
    if not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries lack it
        if mallopt is not None:
            for parameter, size in _KEPT.items():
                mallopt(parameter, size)


def usable_cores(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns the number of cores that the process may use at a time, by its affinity and its control group's quota.

    OpenMP knows only the affinity. root: the folder of the control groups, of version 2 or 1.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota, period = ((root / f"cpu/cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        share = int(quota) / int(period)
    except (OSError, ValueError):  # no such group, or "max"
        return cores
    return min(cores, math.ceil(share)) if share > 0 else cores


def one_thread() -> AbstractContextManager[None]:
    """Let torch compute only on the calling thread, for operations that are too small to be worth dividing."""
    return threads_of_torch(1)


@contextmanager
def threads_of_torch(count: int | None) -> Iterator[None]:
    """Let torch compute with this number of threads. None changes nothing."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(count or threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def even_parts(threads: int, length: int) -> bool:
    """Returns True if torch's SiLU of a window's hidden states gives the same bytes as with one thread.

    torch divides the numbers among the threads, or into parts of 32768 if these are fewer, and rounds the last numbers of a
    part by another function if they do not fill a vector. They fill it for a power of two of threads, windows of a multiple
    of 512 tokens, and a width that is a multiple of 64, which this function takes for granted.
    """
    return threads.bit_count() == 1 and length % 512 == 0


def total(values: "Tensor") -> "Tensor":
    """Returns the sum of all values, a scalar of their type, whose bytes do not depend on the number of threads."""
    with one_thread():
        return values.sum()


def in_parallel(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Returns `work(item)` for each item. As many items are worked on at a time as torch has threads, each by one thread.

    A thread that has finished an item takes the next item, so threads wait for each other only at the end. The results do
    not depend on the number of threads.
    """
    import torch

    threads = torch.get_num_threads()
    with _by_onednn():
        if threads == 1:
            return [work(item) for item in items]
        results = _workers(threads).map(work, items)
        with one_thread():  # new threads of torch take the number that was set last, in whichever thread
            return list(results)


@contextmanager
def _by_onednn() -> Iterator[None]:
    """Let oneDNN multiply matrices of fp32 instead of MKL, where that is faster and as exact.

    A core of an AMD EPYC (Zen 5) does 95 GFLOPS by MKL and 180 by oneDNN. The bytes of oneDNN's results depend on the number
    of threads, so each call must have one.
    """
    import torch

    if not _onednn_is_better():
        yield
        return
    # With "bf16" torch passes multiplications of fp32 to oneDNN, which computes them in fp32 unless the processor has AMX.
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


@cache
def _onednn_is_better() -> bool:
    import torch

    cpu = Path("/proc/cpuinfo")
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or torch.cpu._is_amx_tile_supported():
        return False
    return hasattr(torch.backends.mkldnn, "matmul") and cpu.exists() and "AuthenticAMD" in cpu.read_text()


@cache
def _workers(threads: int) -> ThreadPoolExecutor:
    from torch import set_num_threads

    return ThreadPoolExecutor(threads, "masklearn", initializer=lambda: set_num_threads(1))


def _user_sets_any(names: Sequence[str]) -> bool:
    return any(name in os.environ for name in names)
