"""Functions of CUDA, called by ctypes: memory, streams, captured graphs and contexts."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from typing import Any

from numpy.typing import NDArray

_OUT = ctypes.POINTER(c_void_p)
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "cudaMalloc": (_OUT, c_size_t),
    "cudaFree": (c_void_p,),
    "cudaMemsetAsync": (c_void_p, c_int, c_size_t, c_void_p),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaStreamCreateWithFlags": (_OUT, c_uint),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamDestroy": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, _OUT),
    "cudaGraphGetNodes": (c_void_p, c_void_p, ctypes.POINTER(c_size_t)),
    "cudaGraphInstantiate": (_OUT, c_void_p, c_ulonglong),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphExecDestroy": (c_void_p,),
}
_TO_DEVICE, _TO_HOST = 1, 2  # of cudaMemcpyKind
_GLOBAL = 0  # cudaStreamCaptureModeGlobal: other threads may not make calls that could wait


class CudaError(RuntimeError):
    """A function of CUDA failed. Most errors end the use of a CUDA context."""


class Cuda:
    """CUDA's functions; each raises CudaError if it fails.

    address_of: returns the address of a function of the CUDA runtime; driver: the library with the CUDA driver's functions.
    """

    def __init__(self, address_of: Callable[[str], int], driver: ctypes.CDLL) -> None:
        self._words = ctypes.CFUNCTYPE(c_char_p, c_int)(address_of("cudaGetErrorString"))
        self._functions = {
            name: ctypes.CFUNCTYPE(c_int, *types)(address_of(name)) for name, types in _ARGUMENTS.items()
        }
        self._driver = driver

    def _call(self, name: str, *arguments: Any) -> None:
        if code := self._functions[name](*arguments):
            raise CudaError(f"{name}: {self._words(code).decode()}")

    def _made(self, name: str, *arguments: Any) -> int:
        made = c_void_p()
        self._call(name, ctypes.byref(made), *arguments)
        return made.value or 0

    def allocate(self, size: int) -> int:
        """Return the address of new device memory."""
        return self._made("cudaMalloc", size)

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def fill(self, address: int, size: int, stream: int) -> None:
        """Fill memory with the bits of NaNs."""
        self._call("cudaMemsetAsync", address, 0xFF, size, stream)

    def upload(self, array: NDArray[Any], address: int, stream: int) -> None:
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, _TO_DEVICE, stream)
        self.wait(stream)

    def download(self, address: int, array: NDArray[Any], stream: int) -> None:
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, _TO_HOST, stream)
        self.wait(stream)

    def wait(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    @contextmanager
    def stream(self) -> Iterator[int]:
        """Lend a stream that waits for the default stream, so that a capture finds work there to be a fault."""
        stream = self._made("cudaStreamCreateWithFlags", 0)
        yield stream
        self._call("cudaStreamDestroy", stream)

    def begin_capture(self, stream: int) -> None:
        self._call("cudaStreamBeginCapture", stream, _GLOBAL)

    def end_capture(self, stream: int) -> tuple[int, int]:
        """Return a graph, ready to launch, and its number of nodes."""
        captured, nodes = c_void_p(), c_size_t()
        self._call("cudaStreamEndCapture", stream, ctypes.byref(captured))
        self._call("cudaGraphGetNodes", captured, None, ctypes.byref(nodes))
        graph = self._made("cudaGraphInstantiate", captured, 0)
        self._call("cudaGraphDestroy", captured)
        return graph, nodes.value

    def launch(self, graph: int, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def free_graph(self, graph: int) -> None:
        self._call("cudaGraphExecDestroy", graph)

    @contextmanager
    def second_context(self) -> Iterator[None]:
        """Make another context of the device and use it until the end of the block."""
        first, second = c_void_p(), c_void_p()
        self._drive("cuCtxGetCurrent", ctypes.byref(first))
        self._drive("cuCtxCreate_v2", ctypes.byref(second), 0, 0)
        yield
        self._drive("cuCtxDestroy_v2", second)
        self._drive("cuCtxSetCurrent", first)

    def _drive(self, name: str, *arguments: Any) -> None:
        if code := getattr(self._driver, name)(*arguments):
            raise CudaError(f"{name}: error {code} of the CUDA driver")
