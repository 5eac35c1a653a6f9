"""Times a model's engine on the GPU as the runtime runs it: prompts plainly, decode steps as CUDA graphs."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from patch_compile.artifacts.bench import Phase
from patch_compile.engine.backend import numpy_of, sizes_of
from patch_compile.errors import PatchCompileError, sentence
from patch_compile.runtime.device import CudaDevice, Device
from patch_compile.timing.points import Feed, MakeFeed

if TYPE_CHECKING:
    import tensorrt

_LOG = logging.getLogger(__name__)


class TimedDevice(Device, Protocol):
    """A GPU that can time its own work."""

    def time(self, work: Callable[[], object]) -> float:
        """Returns milliseconds, by the GPU's clock, from the beginning to the end of the work that `work` queues."""


class TimedCudaDevice(CudaDevice):
    """The current CUDA device. Its clock consists of two events on its stream."""

    def __init__(self) -> None:
        super().__init__()
        self._events = tuple(self._call("cudaEventCreate") for _ in range(2))

    def time(self, work: Callable[[], object]) -> float:
        """See `TimedDevice`. If the GPU finishes before the host has queued everything, the host's time counts too."""
        self.wait()
        begin, end = self._events
        self._call("cudaEventRecord", begin, self.stream)
        work()
        self._call("cudaEventRecord", end, self.stream)
        self._call("cudaEventSynchronize", end)
        return float(self._call("cudaEventElapsedTime", begin, end))


def open_engine_runner(path: Path, *, trust: bool = False) -> EngineRunner:
    """Open an engine on this machine's GPU with the library that built it.

    trust: see `host_code`. Raises PatchCompileError as that and `load_engine` do.
    """
    from patch_compile.engine.backend import load_backend
    from patch_compile.runtime.engine_decoder import load_engine
    from patch_compile.runtime.engine_fit import engine_facts, host_code

    facts = engine_facts(path)
    engine, runtime = load_engine(path, load_backend(facts.backend), host_code(facts, trust=trust))
    return EngineRunner(engine, TimedCudaDevice(), runtime)


class EngineRunner:
    """Times an engine, see `timing.TimedModel`. engine: an ICudaEngine; keep: an object that must live as long."""

    def __init__(self, engine: tensorrt.ICudaEngine, device: TimedDevice, keep: Any = None) -> None:
        self._engine, self._device, self._keep = engine, device, keep
        self._names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self._contexts: dict[int, tensorrt.IExecutionContext] = {}
        self._buffers: list[int] = []
        self._work: Callable[[], object] | None = None

    def refuses(self, make: MakeFeed) -> str:
        """See `TimedModel`. An engine refuses shapes outside its profiles."""
        feed = make()
        if self._profile_for(feed) is not None:
            return ""
        ranges = (
            f"profile {profile}: " + ", ".join(self._range(name, profile) for name in list(feed)[:1])
            for profile in range(self._engine.num_optimization_profiles)
        )
        return f"its profiles do not hold these shapes ({'; '.join(ranges)})"

    def prepare(self, make: MakeFeed, phase: Phase) -> None:
        """See `TimedModel`. Raises PatchCompileError for shapes that it refuses, and if the memory does not suffice."""
        feed = make()
        profile = self._profile_for(feed)
        if profile is None:
            raise PatchCompileError("The engine does not take these shapes", sentence(self.refuses(make)))
        self._free()
        context = self._context(profile)
        for name, array in feed.items():
            typed = np.ascontiguousarray(array.astype(numpy_of(self._engine.get_tensor_dtype(name))))
            context.set_input_shape(name, typed.shape)
            context.set_tensor_address(name, self._holding(typed.nbytes, typed))
        for name in (name for name in self._names if name not in feed):
            context.set_tensor_address(name, self._holding(self._size(context, name)))
        execute = partial(self._execute, context)
        execute()  # TensorRT needs one plain run before a capture
        self._device.wait()
        self._work = self._recorded(execute) if phase is Phase.DECODE else execute

    def run(self) -> float:
        assert self._work is not None
        return self._device.time(self._work)

    def close(self) -> None:
        self._free()
        self._contexts.clear()
        self._engine = self._keep = None  # type: ignore[assignment]  # nothing is run after this

    def _profile_for(self, feed: Feed) -> int | None:
        """Returns the first profile that holds the shapes of `feed`, or None if no profile does."""

        def holds(profile: int) -> bool:
            return all(_inside(array.shape, *self._bounds(name, profile)) for name, array in feed.items())

        return next((p for p in range(self._engine.num_optimization_profiles) if holds(p)), None)

    def _bounds(self, name: str, profile: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        least, _, most = self._engine.get_tensor_profile_shape(name, profile)
        return sizes_of(least), sizes_of(most)

    def _range(self, name: str, profile: int) -> str:
        least, most = ("×".join(map(str, shape)) for shape in self._bounds(name, profile))
        return f"{name} {least} … {most}"

    def _context(self, profile: int) -> tensorrt.IExecutionContext:
        if profile not in self._contexts:
            context = self._engine.create_execution_context()
            if context is None or not context.set_optimization_profile_async(profile, self._device.stream):
                raise PatchCompileError(
                    "The GPU has too little free memory to run the engine",
                    "All engines that are compared are held at once.",
                    "Compare fewer models (`--against dense`), or smaller batches and prompts.",
                )
            self._contexts[profile] = context
        return self._contexts[profile]

    def _size(self, context: tensorrt.IExecutionContext, output: str) -> int:
        shape = sizes_of(context.get_tensor_shape(output))
        if min(shape, default=0) < 0:
            raise PatchCompileError(
                f"The shape of the output {output!r} depends on the data",
                "Its memory can't be reserved beforehand.",
                "Time the engine with `trtexec`, which asks TensorRT for the shape at run time.",
            )
        return math.prod(shape) * numpy_of(self._engine.get_tensor_dtype(output)).itemsize

    def _holding(self, nbytes: int, array: NDArray[Any] | None = None) -> int:
        address = self._device.allocate(nbytes)
        self._buffers.append(address)
        if array is not None:
            self._device.write(address, array)
        return address

    def _execute(self, context: tensorrt.IExecutionContext) -> None:
        if not context.execute_async_v3(self._device.stream):
            raise PatchCompileError(
                "The engine failed to run", "TensorRT refused the run.", "See its log above."
            )

    def _recorded(self, execute: Callable[[], None]) -> Callable[[], object]:
        try:
            return self._device.capture(execute)
        except PatchCompileError as error:
            _LOG.warning("no CUDA graph: %s (%s)", error.what, error.why)
            return execute

    def _free(self) -> None:
        self._work = None
        while self._buffers:
            self._device.free(self._buffers.pop())


def _inside(shape: tuple[int, ...], least: tuple[int, ...], most: tuple[int, ...]) -> bool:
    return all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))
