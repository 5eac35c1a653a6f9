"""Reads the layers, constants and target GPUs of an engine.

Full TensorRT tells them through its engine inspector, on the GPU that the engine was built for. NVIDIA's pages "Engine
Inspector" and "Migrating from TensorRT 10 to 11" document the JSON: `Format/Datatype` of version 10 became `DataType` and
`Format`.

An engine of TensorRT-RTX holds them as text. The text is undocumented. It begins at `header {` and ends at a zero byte. An
engine holds at least one text per optimization profile (RTX 1.7.1). These statements are read:

    accelerators={sm86 sm89 }                                   or {*}: runs on any GPU
    tensor={ alignment=128 const_payload_size=65536 dims={ 4 8192 } name="q.dense_constantHalf" … type=half }
    custom_layer={ name="q" output={"y.1" } input={"x.1" "q.dense_constantHalf" … } … layers="[ONNX Layer: q]" }
    custom_layer={ name="q [profile 1]" …
"""

from __future__ import annotations

import json
import math
import mmap
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patch_compile.errors import PatchCompileError

if TYPE_CHECKING:
    from patch_compile.engine.backend import Backend

PLUGIN = "custom_layer"
ANY_TARGET = "*"
_START = b"header {\n"
_SUFFIXES = (".engine", ".plan", ".trt")
_TARGETS = re.compile(r"^\s*accelerators=\{([^}]*)\}", re.MULTILINE)
_TENSOR = re.compile(r"^\s*tensor=\{ (.*) \}$", re.MULTILINE)
_LAYER = re.compile(r'^\s*(\w+)=\{ name="([^"]*)" (.*)\}$', re.MULTILINE)
# Numbers are bounded: Python does not parse thousands of digits as a number, and TensorRT does not write so many.
_PROFILE = re.compile(r"(.*) \[profile ([0-9]{1,9})\]")
_OF_PROFILE = re.compile(r" \[profile ([0-9]{1,9})\]")
_SIZE = re.compile(r"[0-9]{1,18}")
_INPUTS = re.compile(r'\binput=\{((?:"[^"]*"|[^"}])*)\}')
_NODES = re.compile(r'\blayers="([^"]*)"')
_DIMS = re.compile(r'\bdims=\{((?:"[^"]*"|[^"}])*)\}')
_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
# Words of a type, as the text and the inspector spell it; the first that fits counts.
_DTYPES = {
    "bf16": "bfloat16", "bfloat16": "bfloat16", "half": "float16", "fp16": "float16", "float": "float32", "int32": "int32",
}  # fmt: skip
_ITEM_BYTES = {"bfloat16": 2, "float16": 2, "int32": 4}


@dataclass(frozen=True)
class PlanTensor:
    """A tensor of the program. A dynamic dimension is None; `constant_bytes` is None for a computed tensor."""

    dtype: str
    dims: tuple[int | None, ...]
    constant_bytes: int | None

    @property
    def is_empty(self) -> bool:
        """True if it has no elements; the program gives no payload size for such a constant."""
        return 0 in self.dims

    @property
    def nbytes(self) -> int | None:
        """Bytes of a constant, None for a computed tensor."""
        return 0 if self.is_empty else self.constant_bytes


@dataclass(frozen=True)
class PlanLayer:
    """A layer of the program: `kind` is the keyword of its statement, `onnx_nodes` are the nodes it was made of."""

    kind: str
    name: str
    profile: int
    inputs: tuple[str, ...]
    onnx_nodes: tuple[str, ...]

    @classmethod
    def named(cls, kind: str, name: str, inputs: tuple[str, ...], metadata: str) -> PlanLayer:
        """Returns the layer with the profile and the ONNX nodes that its name and metadata give.

        name: may end in ` [profile 1]`; metadata: holds `[ONNX Layer: …]` for each node. A layer that RTX makes late (a
        product from a 1×1 convolution) has no profile in its name; its inputs name the profile.
        """
        suffixed = _PROFILE.fullmatch(name)
        plain, profile = (suffixed[1], int(suffixed[2])) if suffixed else (name, _profile_of(inputs))
        return cls(kind, plain, profile, inputs, tuple(_ONNX_LAYER.findall(metadata)))


def _profile_of(inputs: tuple[str, ...]) -> int:
    suffix = next(filter(None, map(_OF_PROFILE.search, inputs)), None)
    return int(suffix[1]) if suffix else 0


@dataclass(frozen=True)
class PlanProgram:
    """One program text: all of an optimization profile or a part of it."""

    targets: tuple[str, ...]
    layers: tuple[PlanLayer, ...]
    tensors: Mapping[str, PlanTensor]


def is_engine(path: Path) -> bool:
    """Returns True for a file that is named like an engine or holds a program text. Engines of TensorRT have no text."""
    return path.suffix in _SUFFIXES or (path.stat().st_size > 0 and _holds_text(path))


def _holds_text(path: Path) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_START) >= 0


def read_programs(engine: Path) -> tuple[PlanProgram, ...]:
    """Returns all programs of an engine. Maps the file, because an engine may be larger than memory."""
    with engine.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
        return tuple(_parse(text) for text in _texts(plan))


def _texts(plan: mmap.mmap) -> Iterator[str]:
    start = plan.find(_START)
    while start >= 0:
        end = plan.find(b"\0", start)
        end = len(plan) if end < 0 else end
        yield plan[start:end].decode(errors="replace")
        start = plan.find(_START, end)


def _parse(text: str) -> PlanProgram:
    head, _, body = text.partition("\nmain {")
    targets = _TARGETS.search(head)
    return PlanProgram(
        tuple(targets[1].split()) if targets else (),
        tuple(_layer(*match.groups()) for match in _LAYER.finditer(body)),
        dict(_tensor(match[1]) for match in _TENSOR.finditer(head)),
    )


def _layer(kind: str, name: str, rest: str) -> PlanLayer:
    inputs = _INPUTS.search(rest)
    nodes = _NODES.search(rest)
    named = tuple(re.findall(r'"([^"]*)"', inputs[1])) if inputs else ()
    return PlanLayer.named(kind, name, named, nodes[1] if nodes else "")


def _tensor(fields: str) -> tuple[str, PlanTensor]:
    name = re.search(r'\bname="([^"]*)"', fields)
    dims = _DIMS.search(fields)
    dtype = re.search(r"\btype=(\w+)$", fields)
    payload = re.search(rf"\bconst_payload_size=({_SIZE.pattern})\b", fields)
    sizes = dims[1].split() if dims else []
    tensor = PlanTensor(
        _DTYPES.get(dtype[1], dtype[1]) if dtype else "",
        tuple(int(size) if _SIZE.fullmatch(size) else None for size in sizes),
        int(payload[1]) if payload else None,
    )
    return name[1] if name else "", tensor


def inspect_engine(
    backend: Backend, engine: Path, targets: tuple[str, ...], *, host_code: bool = False
) -> tuple[PlanProgram, ...]:
    """Returns the layers of an engine, as one program. The engine must be built with detailed profiling verbosity.

    host_code: run the code of the plugin inside the engine, if the engine contains a plugin; TensorRT then needs it to load
    the engine.

    Raises PatchCompileError when the engine does not load.
    """
    trt = backend.trt
    runtime = trt.Runtime(backend.logger)
    runtime.engine_host_code_allowed = host_code
    with engine.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
        loaded = runtime.deserialize_cuda_engine(plan)
    if loaded is None:
        raise PatchCompileError(
            f"The engine {engine.name} does not load",
            "TensorRT's log above has the reason.",
            "Build it again with the versions of this machine.",
        )
    inspector = loaded.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return (program_from_json(json.loads(text), targets),)


def program_from_json(information: dict[str, Any], targets: tuple[str, ...]) -> PlanProgram:
    """Converts the inspector's JSON to a program for `targets`."""
    layers = [layer for layer in information["Layers"] if isinstance(layer, dict)]
    tensors = {
        tensor["Name"]: _inspected_tensor(tensor) for layer in layers for tensor in layer.get("Inputs", ())
    }
    return PlanProgram(targets, tuple(_inspected_layer(layer) for layer in layers), tensors)


def _inspected_layer(layer: dict[str, Any]) -> PlanLayer:
    kind = str(layer.get("LayerType", ""))
    inputs = tuple(tensor["Name"] for tensor in layer.get("Inputs", ()))
    metadata = str(layer.get("Metadata", ""))
    return PlanLayer.named(PLUGIN if "plugin" in kind.lower() else kind, str(layer["Name"]), inputs, metadata)


def _inspected_tensor(tensor: dict[str, Any]) -> PlanTensor:
    spelled = str(tensor.get("DataType") or tensor.get("Format/Datatype", "")).lower()
    # `float` is in other words too, such as float8.
    dtype = next((dtype for word, dtype in _DTYPES.items() if word in spelled and word != "float"), spelled)
    dims = tuple(size if size >= 0 else None for size in tensor.get("Dimensions", ()))
    known = [size for size in dims if size is not None]
    item = _ITEM_BYTES.get(dtype)
    return PlanTensor(dtype, dims, math.prod(known) * item if item and len(known) == len(dims) else None)
