"""An engine and a GPU in host memory, where ONNX Runtime answers the calls that the runtime makes to TensorRT.

Every address is looked up among the allocations, so a wrong address, a wrong pitch or a buffer that is too small is an
error here, not silent garbage. A step reads its inputs when it runs; a recorded graph reads them at the addresses and
with the shapes of the recording.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path

import numpy as np
import onnxruntime as ort

Shape = tuple[int, ...]

# Sizes (min, opt, max) of the two profiles of a small decoder.
PREFILL: dict[str, Shape] = {"batch": (1, 1, 4), "sequence": (1, 8, 32), "past": (0, 0, 0)}
DECODE: dict[str, Shape] = {"batch": (1, 1, 4), "sequence": (1, 1, 1), "past": (1, 16, 64)}


class HostDevice:
    """Device memory that checks bounds."""

    def __init__(self) -> None:
        self.stream = 7
        self._blocks: dict[int, np.ndarray] = {}
        self.recording: list[Callable[[], None]] | None = None
        self.recorded, self.replayed, self.copied = 0, 0, 0

    @property
    def held(self) -> int:
        """Number of allocated bytes."""
        return sum(block.nbytes for block in self._blocks.values())

    def allocate(self, nbytes: int) -> int:
        assert self.recording is None, "an allocation while a graph is recorded"
        block = np.zeros(max(1, nbytes), np.uint8)
        self._blocks[block.ctypes.data] = block
        return block.ctypes.data

    def free(self, address: int) -> None:
        del self._blocks[address]

    def write(self, address: int, array: np.ndarray) -> None:
        array = np.ascontiguousarray(array)
        self.view(address, array.nbytes)[:] = array.reshape(-1).view(np.uint8)

    def read(self, rows: tuple[int, int], array: np.ndarray) -> None:
        width = array.nbytes // len(array)
        flat = array.reshape(-1).view(np.uint8).reshape(len(array), width)
        for row in range(len(array)):
            flat[row] = self.view(rows[0] + row * rows[1], width)

    def copy(self, to: tuple[int, int], source: tuple[int, int], width: int, count: int) -> None:
        assert width <= to[1] and width <= source[1], "rows overlap"
        self.copied += 1
        for row in range(count):
            found = self.view(source[0] + row * source[1], width).copy()
            self.view(to[0] + row * to[1], width)[:] = found

    def wait(self) -> None:
        pass

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recording = steps = []
        work()
        self.recording = None
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            for step in steps:
                step()

        return replay

    def view(self, address: int, nbytes: int) -> np.ndarray:
        """The bytes at an address, which must lie in one allocation."""
        for start, block in self._blocks.items():
            if start <= address and address + nbytes <= start + block.nbytes:
                return block[address - start : address - start + nbytes]
        raise AssertionError(f"{nbytes} bytes at {address:#x} are not allocated")


class DataType(Enum):
    """TensorRT's names of data types."""

    HALF = np.dtype(np.float16)
    FLOAT = np.dtype(np.float32)
    INT64 = np.dtype(np.int64)


_OF_ONNX = {
    "tensor(float16)": DataType.HALF,
    "tensor(float)": DataType.FLOAT,
    "tensor(int64)": DataType.INT64,
}


class HostEngine:
    """ICudaEngine with the calls that the runtime makes. profiles: sizes (min, opt, max) of the dimensions, by profile."""

    def __init__(self, onnx: Path, device: HostDevice, profiles: list[dict[str, Shape]]) -> None:
        self.session = ort.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
        self.device, self.profiles = device, profiles
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        self.outputs = {o.name: o for o in self.session.get_outputs()}
        self._names = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self._names)
        self.num_optimization_profiles = len(profiles)
        self.contexts = 0

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_dtype(self, name: str) -> DataType:
        return _OF_ONNX[{**self.inputs, **self.outputs}[name].type]

    def get_tensor_shape(self, name: str) -> Shape:
        dims = {**self.inputs, **self.outputs}[name].shape
        return tuple(dim if isinstance(dim, int) else -1 for dim in dims)

    def get_tensor_profile_shape(self, name: str, profile: int) -> tuple[Shape, Shape, Shape]:
        sizes = dict(self.profiles[profile])
        sizes["total"] = tuple(s + p for s, p in zip(sizes["sequence"], sizes["past"], strict=True))
        dims = self.inputs[name].shape
        found = [tuple(d if isinstance(d, int) else sizes[d][i] for d in dims) for i in range(3)]
        return found[0], found[1], found[2]

    def create_execution_context(self) -> "HostContext":
        self.contexts += 1
        return HostContext(self)


class HostContext:
    """IExecutionContext with the calls that the runtime makes."""

    def __init__(self, engine: HostEngine) -> None:
        self._engine = engine
        self._profile: int | None = None
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert stream == self._engine.device.stream
        self._profile = profile
        return True

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        assert self._profile is not None
        least, _, most = self._engine.get_tensor_profile_shape(name, self._profile)
        inside = all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))
        assert inside, f"{name} {shape} is not within {least} … {most} of profile {self._profile}"
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> Shape:
        batch, sequence = self._shapes["input_ids"]
        sizes = {"batch": batch, "sequence": sequence, "total": self._shapes["attention_mask"][1]}
        dims = self._engine.outputs[name].shape
        return tuple(dim if isinstance(dim, int) else sizes.get(dim, sizes["total"]) for dim in dims)

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == self._engine.device.stream
        shapes, addresses, device = dict(self._shapes), dict(self._addresses), self._engine.device
        if device.recording is not None:

            def replayed() -> None:
                assert self._shapes == shapes, "a graph was kept though its context has other shapes"
                self._run(shapes, addresses)

            device.recording.append(replayed)
        else:
            self._run(shapes, addresses)
        return True

    def _run(self, shapes: Mapping[str, Shape], addresses: Mapping[str, int]) -> None:
        engine, feed = self._engine, {}
        for name in engine.inputs:
            dtype = engine.get_tensor_dtype(name).value
            nbytes = int(np.prod(shapes[name])) * dtype.itemsize
            feed[name] = engine.device.view(addresses[name], nbytes).view(dtype).reshape(shapes[name]).copy()
        for name, made in zip(engine.outputs, engine.session.run(None, feed), strict=True):
            engine.device.write(addresses[name], made)
