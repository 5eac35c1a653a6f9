"""Memory and one stream of a GPU, through the CUDA runtime API (cuda-python), without PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from patch_compile.errors import PatchCompileError

Rows = tuple[int, int]  # address of the first row, bytes from one row to the next


class Device(Protocol):
    """GPU operations for the buffers of an engine. All but `allocate` and `free` are queued on `stream`, in order."""

    @property
    def stream(self) -> int:
        """Handle of the stream."""

    def allocate(self, nbytes: int) -> int:
        """Returns the address of new memory, filled with zeros."""

    def free(self, address: int) -> None:
        """Free memory, after the queued work is done."""

    def write(self, address: int, array: NDArray[Any]) -> None:
        """Copy a host array to an address. The array may be changed as soon as this returns."""

    def read(self, rows: Rows, array: NDArray[Any]) -> None:
        """Fill a host array `[rows, …]` from rows on the device, and wait until the copy is done."""

    def copy(self, to: Rows, source: Rows, width: int, count: int) -> None:
        """Copy `count` rows of `width` bytes on the device."""

    def wait(self) -> None:
        """Wait until all queued work is done."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record the work that `work` queues as a CUDA graph, without running it. Calling the result queues the graph."""


class CudaDevice:
    """The current CUDA device. Raises PatchCompileError with CUDA's message when a CUDA call fails."""

    def __init__(self) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise PatchCompileError(
                "cuda-python is not installed",
                str(error),
                "Install it: `pip install 'patch-compile[rtx]'`, or [tensorrt].",
            ) from None
        self._cuda: Any = runtime
        self.stream: int = int(self._call("cudaStreamCreate"))

    def allocate(self, nbytes: int) -> int:
        address = int(self._call("cudaMalloc", max(1, nbytes)))
        self._call("cudaMemsetAsync", address, 0, max(1, nbytes), self.stream)
        return address

    def free(self, address: int) -> None:
        self.wait()
        self._call("cudaFree", address)

    def write(self, address: int, array: NDArray[Any]) -> None:
        """See `Device`. CUDA copies pageable memory to a staging buffer before the call returns."""
        array = np.ascontiguousarray(array)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self.stream)

    def read(self, rows: Rows, array: NDArray[Any]) -> None:
        width = array.nbytes // len(array)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy((array.ctypes.data, width), rows, width, len(array), kind)
        self.wait()

    def copy(self, to: Rows, source: Rows, width: int, count: int) -> None:
        self._copy(to, source, width, count, self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice)

    def wait(self) -> None:
        """See `Device`. Raises the errors of the queued work."""
        self._call("cudaStreamSynchronize", self.stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        # Thread-local: other threads of the process may allocate memory during the capture.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self.stream, mode)
        try:
            work()
        finally:
            graph = self._call("cudaStreamEndCapture", self.stream)
        executable = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)
        return _Graph(self._call, executable, self.stream)

    def _copy(self, to: Rows, source: Rows, width: int, count: int, kind: Any) -> None:
        if width and count:
            self._call("cudaMemcpy2DAsync", *to, *source, width, count, kind, self.stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *values = getattr(self._cuda, name)(*arguments)
        if int(status):
            _, words = self._cuda.cudaGetErrorString(status)
            raise PatchCompileError(f"CUDA failed in {name}", words.decode(), "See `patch-compile doctor`.")
        return values[0] if values else None


class _Graph:
    """An executable CUDA graph, destroyed with this object."""

    def __init__(self, call: Callable[..., Any], executable: Any, stream: int) -> None:
        self._call, self._executable, self._stream = call, executable, stream

    def __call__(self) -> None:
        self._call("cudaGraphLaunch", self._executable, self._stream)

    def __del__(self) -> None:
        self._call("cudaGraphExecDestroy", self._executable)
