"""Inspects an ONNX file: its interface, and every PatchLinear, whose packed tensors are verified."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from patch_compile.inspect.inspection import Inspection
from patch_compile.onnx_io.proto import load_proto, model_of, refusing_invalid
from patch_compile.packing.format import SLAB_K, PackedLinear, unpack
from patch_compile.packing.function import DOMAIN, INPUTS, NAME
from patch_compile.packing.index import index_from_attribute
from patch_compile.packing.version import version_fault

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["index_faults", "inspect_onnx"]

_SIXTEEN_BITS = ("float16", "bfloat16")
# Number of axes and types of each packed tensor.
_TYPES = {
    "dense": (2, _SIXTEEN_BITS),
    "sparse": (2, _SIXTEEN_BITS),
    "meta": (2, ("int32",)),
    "index": (1, ("int32",)),
}


def inspect_onnx(path: Path) -> Inspection:
    """Inspect an ONNX file. It maps packed tensors into memory and decodes one node at a time.

    Raises PatchCompileError if the file is no model, or its external data are missing or too short.
    """
    with refusing_invalid(path):
        return _inspected(path)


def index_faults(path: Path) -> list[str]:
    """Returns what is wrong with the attributes, shapes and indices of an ONNX file's PatchLinears, in words.

    Unlike `inspect_onnx` it decodes no slab: of packed tensors it reads nothing. Raises PatchCompileError as
    `inspect_onnx` does.
    """
    with refusing_invalid(path):
        _, _, faults = _patch_linears(path, decode=False)
        return faults


def _patch_linears(path: Path, *, decode: bool) -> tuple[ir.Model, list[dict[str, Any]], list[str]]:
    """Returns the model, a row for each PatchLinear, and their faults in words; decode: also decode each slab."""
    from patch_compile.onnx_io.external import map_external_data

    model = model_of(path, load_proto(path))
    map_external_data(path, model)
    rows, faults = [], []
    for node in model.graph:
        if (node.domain, node.op_type) == (DOMAIN, NAME):
            row, why = _patch_linear(node, decode=decode)
            rows.append(row)
            faults += [f"{node.name}: {why}"] if why else []
    return model, rows, faults


def _inspected(path: Path) -> Inspection:
    from patch_compile.onnx_io.external import data_files

    model, rows, faults = _patch_linears(path, decode=True)
    graph = model.graph
    operators = Counter(node.op_type for node in graph)
    files = [path, *data_files(model)]
    facts = {
        "producer": " ".join(filter(None, (model.producer_name, model.producer_version))),
        "opsets": dict(model.opset_imports),
        "inputs": [_spelled(value) for value in graph.inputs],
        "outputs": [_spelled(value) for value in graph.outputs],
        "nodes": sum(operators.values()),
        "operators": dict(operators.most_common()),
        "PatchLinear": len(rows),
        "weights": sum(
            int(value.const_value.size) for value in graph.initializers.values() if value.const_value
        ),
        "files": [str(file.name) for file in files],
        "bytes": sum(file.stat().st_size for file in files),
    }
    checked = (
        "each packed linear: shapes fit, every slab is stored once, metadata are 2:4, padding is zero"
        if rows
        else ""
    )
    return Inspection(path, "onnx", facts, rows, checked, faults)


def _spelled(value: ir.Value) -> str:
    dims = ", ".join(map(str, value.shape)) if value.shape is not None else "?"
    return f"{value.name}: {value.dtype.name.lower() if value.dtype else '?'} [{dims}]"


class _Attributes(BaseModel):
    """Attributes of a PatchLinear, of the types and sizes that the plugin takes."""

    model_config = ConfigDict(strict=True)

    out_features: int = Field(ge=1, lt=2**31)
    in_features: int = Field(ge=1, lt=2**31)
    panel_rows: Literal[64, 128]
    kinds: Literal["dense,2:4"]
    activation: str = ""
    gated: Literal[0, 1] = 0
    residual: Literal[0, 1] = 0

    @property
    def epilogue(self) -> str:
        """Spells what the node computes besides its product."""
        words = [self.activation + "·mul" * self.gated]
        return " + ".join(filter(None, [*words, "residual" * self.residual]))


def _patch_linear(node: ir.Node, *, decode: bool) -> tuple[dict[str, Any], str]:
    """Returns the row of a PatchLinear, and the fault of its packed tensors in words, empty if there is none."""
    constants, why = _constants(node)
    try:
        found = _Attributes(**{name: attribute.value for name, attribute in node.attributes.items()})
    except ValidationError as error:
        first = error.errors()[0]
        found, why = None, f"its attribute {first['loc'][0]}: {first['msg']}"
    row = {
        "linear": node.name,
        "shape": [found.out_features, found.in_features] if found else None,
        "epilogue": found.epilogue if found else None,
        "panel rows": found.panel_rows if found else None,
        "dense slabs": len(constants["dense"]) if constants else None,
        "2:4 slabs": len(constants["sparse"]) if constants else None,
        "dtype": str(constants["dense"].dtype) if constants else None,
        "bytes": sum(constants[role].nbytes for role in INPUTS[1:]) if constants else None,
    }
    return row, why or (_why_broken(constants, found, decode=decode) if found else "")


def _constants(node: ir.Node) -> tuple[dict[str, NDArray[Any]], str]:
    found = {}
    version = node.attributes.get("plugin_version")
    if why := version_fault(version.value if version else None):
        return {}, why
    for role, value in zip(INPUTS[1:], node.inputs[1 : len(INPUTS)], strict=False):
        if value is None or value.const_value is None:
            return {}, f"{role} is not a constant"
        found[role] = value.const_value.numpy()
    if len(found) < len(INPUTS) - 1:
        return {}, "it has too few inputs"
    index = node.attributes.get("index")
    return {**found, "index": index_from_attribute(index.value if index else None)}, ""


def _why_other_types(constants: dict[str, NDArray[Any]]) -> str:
    """Returns the fault of a tensor that is no matrix (the index: no vector) of its type, empty if there is none."""
    for role, (axes, types) in _TYPES.items():
        array = constants[role]
        if array.ndim != axes or array.dtype.name not in types:
            return f"{role} is {array.dtype} {list(array.shape)}, and not of {axes} axes and {' or '.join(types)}"
    return ""


def _why_broken(constants: dict[str, NDArray[Any]], about: _Attributes, *, decode: bool) -> str:
    """Returns the fault of packed tensors that a kernel would fail on, in words, empty if there is none."""
    rows, columns, panel_rows, gated = (
        about.out_features,
        about.in_features,
        about.panel_rows,
        bool(about.gated),
    )
    if why := _why_other_types(constants):
        return why
    panels = (1 + gated) * -(-rows // panel_rows)
    slabs = panels * -(-columns // SLAB_K)
    widths = {"dense": panel_rows * SLAB_K, "sparse": panel_rows * SLAB_K // 2, "meta": panel_rows * 2}
    for role, width in widths.items():
        if constants[role].shape[1] != width:
            return f"{role} is {list(constants[role].shape)}, its rows must have {width}"
    dense, sparse, index = (len(constants[role]) for role in ("dense", "sparse", "index"))
    if dense + sparse != slabs or len(constants["meta"]) != sparse or index != 2 * (panels + 1) + slabs:
        found = (
            f"{dense} dense slabs, {sparse} 2:4, metadata of {len(constants['meta'])} and an index of {index}"
        )
        return f"{found} do not fit its shape"
    packed = PackedLinear(
        (panels * panel_rows, -(-columns // SLAB_K) * SLAB_K),
        panel_rows,
        constants["dense"].view(np.uint16),
        constants["sparse"].view(np.uint16),
        constants["meta"],
        constants["index"],
    )
    try:
        if not decode:
            packed.places()
            return ""
        bits = unpack(packed)
    except ValueError as error:
        return str(error)
    by_linear = bits.reshape(-1, 1 + gated, panel_rows, bits.shape[1]).swapaxes(0, 1)
    whole = by_linear.reshape(1 + gated, -1, bits.shape[1])
    if whole[:, rows:].any() or whole[:, :, columns:].any():
        return "what lies beyond its rows or columns is not zero"
    return ""
