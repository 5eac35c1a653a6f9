"""The GPU of this machine: its rates, measured, its clocks and power, and the times of calls on it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from threading import Thread

import torch

Call = Callable[[int], object]  # launches the copy of that number on the current stream

_WARM_UPS, _REPLAYS = 3, 7
_FEWEST, _MOST, _GRAPH_SECONDS = 3, 24, 0.02  # launches of a graph, and how long it should take
_BYTES, _SQUARE = 1 << 30, 8192
_QUERY = "clocks.sm,clocks.mem,power.draw,temperature.gpu"
_NAMES = ("sm_mhz", "memory_mhz", "watts", "celsius")
_SAMPLE_MS = 200


def copies_beyond_l2(l2: int, one: int) -> int:
    """Number of copies of `one` bytes that together fill L2 twice, plus one."""
    return 1 + -(-2 * l2 // max(one, 1))


@dataclass(frozen=True)
class MeasuredGpu:
    """Rates of the device. All are measured, not taken from a data sheet.

    copies: bytes per second of a copy, read and written; reads: bytes per second of a sum, which only reads; flops: fp16
    operations per second of cuBLAS on a large square; l2: bytes of L2; sms: number of SMs.
    """

    copies: float
    reads: float
    flops: float
    sms: int
    l2: int

    @classmethod
    def measure(cls) -> MeasuredGpu:
        """Measure the rates."""
        found = torch.cuda.get_device_properties(0)
        return cls(*_memory_rates(), _product_rate(), found.multi_processor_count, found.L2_cache_size)

    def limit(
        self, tokens: int, shape: tuple[int, int], weight_bytes: int, share: float, faster: int = 1
    ) -> float:
        """Lower bound of any kernel's seconds: bytes over bandwidth, products over the tensor cores' rate.

        faster: rate of the products over the rate of fp16; int8's is twice as high.
        """
        n, k = shape
        moved = weight_bytes + 2 * tokens * (k + n)
        rate = max(self.copies, self.reads)
        return max(moved / rate, 2 * tokens * n * k * (1 - share / 2) / (faster * self.flops))


def _memory_rates() -> tuple[float, float]:
    source = torch.empty(_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copied = time_of([lambda _: target.copy_(source)], 4)
    numbers = source.view(torch.float32).fill_(1.0)
    return 2 * _BYTES / copied, _BYTES / time_of([lambda _: torch.sum(numbers)], 4)


def _product_rate() -> float:
    a, b = (torch.randn(_SQUARE, _SQUARE, dtype=torch.float16, device="cuda") for _ in range(2))
    out = torch.empty_like(a)
    return 2 * _SQUARE**3 / time_of([lambda _: torch.mm(a, b, out=out)], 4)


def graph_launches(first: float, copies: int) -> int:
    """Number of launches in a graph that takes some 20 ms, from 3 to 24, but at least one for each copy of the weight.

    Every copy is read before the first is read again. first: seconds of one launch, as measured before the graph is made.
    """
    return max(min(max(int(_GRAPH_SECONDS / first), _FEWEST), _MOST), copies)


def time_of(calls: Sequence[Call], launches: int = 0, *, captured: bool = True) -> float:
    """Median seconds of one call, over replays of a CUDA graph that walks through the copies.

    calls: a call for each copy, or a single call that takes the number of the copy. launches: calls in the graph; 0 lets
    `graph_launches` decide. captured: False launches them without a graph, for calls that no graph takes.
    """
    stream = torch.cuda.Stream()
    first = _warmed(calls, stream)
    launches = launches or graph_launches(first, len(calls))

    def walk() -> None:
        for i in range(launches):
            calls[i % len(calls)](i)

    replay: Callable[[], object] = walk
    if captured:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            walk()
        replay = graph.replay
    replay()
    return median(_seconds(replay) / launches for _ in range(_REPLAYS))


def _warmed(calls: Sequence[Call], stream: torch.cuda.Stream) -> float:
    """Seconds of a call after the first, which also loads the kernel."""
    with torch.cuda.stream(stream):
        calls[0](0)
        seconds = [_seconds(lambda i=i: calls[i % len(calls)](i)) for i in range(1, _WARM_UPS)]
    torch.cuda.synchronize()
    return min(seconds)


def _seconds(call: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def usable() -> bool:
    """False when an error has ended all work of this process on the GPU, or the capture of graphs."""
    try:
        torch.cuda.synchronize()
        one = torch.ones(1, device="cuda")
        time_of([lambda _: one.add_(1)], 1)
    except Exception:
        return False
    return True


def driver_version() -> str | None:
    """Version of the driver, or None without nvidia-smi."""
    found = shutil.which("nvidia-smi")
    if found is None:
        return None
    command = [found, "--query-gpu=driver_version", "--format=csv,noheader", "-i", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


class Sensors:
    """Clocks, power and temperature as nvidia-smi reads them five times a second, until `running` ends."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Sensors]:
        """Read until the block ends. Without nvidia-smi nothing is read, and `since_last` returns {}."""
        sensors, found = cls(), shutil.which("nvidia-smi")
        if found is None:
            yield sensors
            return
        command = [found, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits", "-i", "0"]
        with subprocess.Popen(
            [*command, f"-lms={_SAMPLE_MS}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            reader = Thread(target=sensors._read, args=(process,), daemon=True)
            reader.start()
            try:
                yield sensors
            finally:
                process.terminate()
                reader.join(timeout=2)

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.append(line)

    def since_last(self) -> dict[str, float]:
        """Medians of the readings since the last call; a sensor that the GPU lacks is left out."""
        lines, self._lines = self._lines, []
        return sensor_medians(lines)


def sensor_medians(lines: Sequence[str]) -> dict[str, float]:
    """Medians of nvidia-smi's lines by name; a cell that is not a number, such as [N/A], is left out."""
    columns: dict[str, list[float]] = {}
    for line in lines:
        for name, cell in zip(_NAMES, line.split(","), strict=False):
            try:
                columns.setdefault(name, []).append(float(cell))
            except ValueError:
                continue
    return {name: median(values) for name, values in columns.items() if values}
