"""Reads the program text inside a TensorRT-RTX engine: its layers, its constants and its target GPUs.

The text is undocumented. It begins at `header {` and ends at a zero byte. An engine holds at least one text per
optimization profile (RTX 1.7.1). These statements are read:

    accelerators={sm86 sm89 }                                   or {*}: runs on any GPU
    tensor={ alignment=128 const_payload_size=65536 dims={ 4 8192 } name="q.dense_constantHalf" … type=half }
    custom_layer={ name="q" output={"y.1" } input={"x.1" "q.dense_constantHalf" … } … layers="[ONNX Layer: q]" }
    custom_layer={ name="q [profile 1]" …
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

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
_DTYPES = {"half": "float16", "bf16": "bfloat16", "float": "float32"}


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
    found = next(filter(None, map(_OF_PROFILE.search, inputs)), None)
    return int(found[1]) if found else 0


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
