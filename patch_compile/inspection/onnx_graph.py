"""Inspects an ONNX file: its interface, and every PatchLinear, whose packed tensors are verified."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import KINDS
from masklearn.quant.table import FLOAT16, QUANTISED, WeightType
from patch_compile.errors import PatchCompileError
from patch_compile.inspection import Inspection
from patch_compile.onnx_io.proto import load_proto, model_of, refusing_invalid
from patch_compile.packing.checks import kernel_fault, version_fault
from patch_compile.packing.format import OtherSlabs, PackedLinear, unpack
from patch_compile.packing.function import DOMAIN, INPUTS, NAME, tensor_names
from patch_compile.packing.index import index_from_attribute
from patch_compile.packing.quantised import unpack_quantised
from patch_compile.packing.slab_kinds import (
    ALWAYS,
    SLAB_K,
    TURN,
    code_words,
    kinds_from_attribute,
    slab_words,
)

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

_SIXTEEN_BITS = ("float16", "bfloat16")
_BEFORE_SLABS = ("linear", "shape", "epilogue", "weights", "panel rows")


def inspect_onnx(path: Path) -> Inspection:
    """Inspect an ONNX file. It maps packed tensors into memory and decodes one node at a time.

    Raises PatchCompileError if the file is not a model, or its external data are missing or too short.
    """
    from patch_compile.onnx_io.external import external_files

    with refusing_invalid(path):
        proto = load_proto(path)
        model, rows, faults = _patch_linears(path, proto, decode=True)
        files = [path, *external_files(path, proto)]
    graph = model.graph
    operators = Counter(node.op_type for node in graph)
    tensors = (value.const_value for value in graph.initializers.values())
    facts = {
        "producer": " ".join(filter(None, (model.producer_name, model.producer_version))),
        "opsets": dict(model.opset_imports),
        "inputs": [_spelled(value) for value in graph.inputs],
        "outputs": [_spelled(value) for value in graph.outputs],
        "nodes": sum(operators.values()),
        "operators": dict(operators.most_common()),
        "PatchLinear": len(rows),
        "weights": sum(int(tensor.size) for tensor in tensors if tensor),
        "files": [str(file.name) for file in files],
        "bytes": sum(file.stat().st_size for file in files),
    }
    checked = "each packed linear: shapes fit, every slab is stored once, metadata are 2:4, padding is zero"
    return Inspection(path, "onnx", facts, rows, checked if rows else "", faults)


def index_faults(path: Path) -> list[str]:
    """Returns the faults in the attributes, shapes and indices of an ONNX file's PatchLinears, in words.

    Unlike `inspect_onnx` it reads no packed tensors. Raises PatchCompileError as `inspect_onnx` does.
    """
    with refusing_invalid(path):
        _, _, faults = _patch_linears(path, load_proto(path), decode=False)
        return faults


def patch_linears(model: ir.Model) -> Iterator[ir.Node]:
    return (node for node in model.graph if (node.domain, node.op_type) == (DOMAIN, NAME))


def kept_of(node: ir.Node) -> tuple[NDArray[np.bool_], WeightType]:
    """Returns which weights of a PatchLinear are not zero, bool `[N, K]` with all its linears in N, and their type.

    Raises PatchCompileError if its tensors are damaged.
    """
    _, why = _patch_linear(node, decode=False)
    if why:
        raise PatchCompileError(f"The PatchLinear {node.name!r} is damaged", why, "Build it again.")
    about = _Attributes(**{name: attribute.value for name, attribute in node.attributes.items()})
    packed = _packed(_constants(node, about)[0], about)
    values = unpack_quantised(packed, np.dtype(np.float16))[0] if packed.weights else unpack(packed)
    return values[: about.rows, : about.in_features] != 0, about.integers or FLOAT16


def _patch_linears(
    path: Path, proto: onnx.ModelProto, *, decode: bool
) -> tuple[ir.Model, list[dict[str, Any]], list[str]]:
    """Returns the model, a row for each PatchLinear, and their faults in words; decode: also decode each slab."""
    from patch_compile.onnx_io.external import map_external_data

    model = model_of(path, proto)
    map_external_data(path, model)
    rows, faults = [], []
    for node in patch_linears(model):
        row, why = _patch_linear(node, decode=decode)
        rows.append(row)
        faults += [f"{node.name}: {why}"] if why else []
    return model, _with_all_kinds(rows), faults


def _with_all_kinds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows with a column for each kind of slabs that a row has, in the table's order."""
    slabs = [
        f"{kind} slabs" for kind in KINDS if kind in ALWAYS or any(f"{kind} slabs" in row for row in rows)
    ]
    return [
        {name: row[name] for name in _BEFORE_SLABS}
        | {name: row.get(name, 0 if row["bytes"] is not None else None) for name in slabs}
        | {"bytes": row["bytes"]}
        for row in rows
    ]


def _spelled(value: ir.Value) -> str:
    dims = ", ".join(map(str, value.shape)) if value.shape is not None else "?"
    return f"{value.name}: {value.dtype.name.lower() if value.dtype else '?'} [{dims}]"


class _Attributes(BaseModel):
    """Attributes of a PatchLinear, of the types and sizes that the plugin takes."""

    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)

    out_features: int = Field(ge=1, lt=2**31)
    in_features: int = Field(ge=1, lt=2**31)
    panel_rows: Literal[64, 128]
    kinds: Annotated[tuple[TileKind, ...], BeforeValidator(kinds_from_attribute)]
    weights: Literal["float16", "bfloat16", "int8", "w8a8", "int4"]
    activation: str = ""
    gated: Literal[0, 1] = 0
    residual: Literal[0, 1] = 0

    @property
    def integers(self) -> WeightType | None:
        return QUANTISED.get(self.weights)

    @property
    def rows(self) -> int:
        """Rows of the weight, or of a gate and its up together."""
        return (1 + self.gated) * self.out_features

    @property
    def packed_rows(self) -> int:
        return -(-self.rows // self.panel_rows) * self.panel_rows

    @property
    def epilogue(self) -> str:
        words = [self.activation + "·mul" * self.gated]
        return " + ".join(filter(None, [*words, "residual" * self.residual]))


def _patch_linear(node: ir.Node, *, decode: bool) -> tuple[dict[str, Any], str]:
    """Returns the row of a PatchLinear, and the fault of its packed tensors in words, empty if there is none."""
    why = ""
    try:
        about = _Attributes(**{name: attribute.value for name, attribute in node.attributes.items()})
    except ValidationError as error:
        first = error.errors()[0]
        about, why = None, f"its attribute {first['loc'][0]}: {first['msg']}"
    constants, missing = _constants(node, about) if about else ({}, "")
    tensors = [array for role, array in constants.items() if role != "index"]
    row = {
        "linear": node.name,
        "shape": [about.out_features, about.in_features] if about else None,
        "epilogue": about.epilogue if about else None,
        "weights": about.weights if about else None,
        "panel rows": about.panel_rows if about else None,
        **{f"{kind} slabs": len(constants[role]) if constants else None for kind, role in _firsts(about)},
        "bytes": sum(tensor.nbytes for tensor in tensors) if constants else None,
    }
    if missing or not about:
        return row, _why_other_version(node) or missing or why
    x = node.inputs[0].dtype if node.inputs[0] is not None else None
    dtype = x.numpy() if x is not None and x.name.lower() in _SIXTEEN_BITS else None
    return row, _why_broken(constants, about, dtype, decode=decode)


def _firsts(about: _Attributes | None) -> Iterator[tuple[TileKind, str]]:
    kinds = about.kinds if about else ALWAYS
    roles = tensor_names(kinds)
    yield from zip(kinds, (roles[0], *roles[1::2]), strict=True)


def _why_other_version(node: ir.Node) -> str:
    version = node.attributes.get("plugin_version")
    return version_fault(version.value if version else None)


def _constants(node: ir.Node, about: _Attributes) -> tuple[dict[str, NDArray[Any]], str]:
    """Returns the packed tensors and the index by name, or the fault of the node."""
    if why := _why_other_version(node):
        return {}, why
    constants = {}
    roles = tensor_names(about.kinds, about.integers)
    for role, value in zip(roles, node.inputs[1 : 1 + len(roles)], strict=False):
        if value is None or value.const_value is None:
            return {}, f"{role} is not a constant"
        constants[role] = value.const_value.numpy()
    if len(constants) < len(roles):
        return {}, "it has too few inputs"
    index = node.attributes.get("index")
    return {**constants, "index": index_from_attribute(index.value if index else None)}, ""


def _why_other_types(constants: dict[str, NDArray[Any]], integers: WeightType | None) -> str:
    """Returns the fault of a tensor of another type or rank (2, of index and scales 1), empty if there is none."""
    for role, array in constants.items():
        axes = 1 if role in ("index", "scales") else 2
        words = integers or role == "index" or role.startswith(("meta", "masks"))
        types = ("float32",) if role == "scales" else ("int32",) if words else _SIXTEEN_BITS
        if array.ndim != axes or array.dtype.name not in types:
            return f"{role} is {array.dtype} {list(array.shape)}, and not of {axes} axes and {' or '.join(types)}"
    return ""


def _why_broken(
    constants: dict[str, NDArray[Any]], about: _Attributes, dtype: np.dtype[Any] | None, *, decode: bool
) -> str:
    """Returns the fault of packed tensors that a kernel would fail on, in words, empty if there is none.

    dtype: type of X, None if the file does not tell it.
    """
    why = _why_other_types(constants, about.integers) or _why_other_widths(constants, about)
    if why or (why := _why_no_kernel(constants, about)):
        return why
    packed = _packed(constants, about)
    try:
        if not decode:
            packed.places()
            return ""
        values, why = _decoded(packed, dtype)
    except ValueError as error:
        return str(error)
    if why:
        return why
    if values[about.rows :].any() or values[:, about.in_features :].any():
        return "what lies beyond its rows or columns is not zero"
    return ""


def _packed(constants: dict[str, NDArray[Any]], about: _Attributes) -> PackedLinear:
    """Returns the packed linear of tensors whose types and widths are right."""
    names = tensor_names(about.kinds)[len(INPUTS) - 1 :]
    bits = np.uint16 if about.integers is None else np.int32
    return PackedLinear(
        (about.packed_rows, -(-about.in_features // SLAB_K) * SLAB_K),
        about.panel_rows,
        constants["dense"].view(bits),
        constants["sparse"].view(bits),
        constants["meta"],
        constants["index"],
        tuple(
            OtherSlabs(kind, constants[values].view(bits), constants[codes])
            for kind, values, codes in zip(about.kinds[len(ALWAYS) :], names[::2], names[1::2], strict=True)
        ),
        about.integers,
        constants.get("scales"),
    )


def _why_other_widths(constants: dict[str, NDArray[Any]], about: _Attributes) -> str:
    """Returns the fault of a tensor with rows of wrong width, or of a kind's two tensors with different numbers of rows."""
    for kind, role in _firsts(about):
        width = about.panel_rows * SLAB_K * kind.kept // kind.group
        if about.integers:
            width = slab_words(kind, about.integers, about.panel_rows)
        if constants[role].shape[1] != width:
            return f"{role} is {list(constants[role].shape)}, its rows must have {width}"
    roles = tensor_names(about.kinds)
    for kind, values, codes in zip(
        about.kinds[1:], roles[1::2], roles[2::2], strict=True
    ):  # without the scales
        shape = (len(constants[values]), code_words(kind, about.panel_rows))
        if constants[codes].shape != shape:
            return f"{codes} is {list(constants[codes].shape)}, it must be {list(shape)}"
    return ""


def _why_no_kernel(constants: dict[str, NDArray[Any]], about: _Attributes) -> str:
    """Returns what no kernel runs, and what else is wrong with quantised weights."""
    rows = about.packed_rows
    if why := kernel_fault(about.integers, about.kinds, about.panel_rows, about.in_features):
        return why
    if about.gated and about.out_features % TURN:
        return f"its gate has {about.out_features} rows, no multiple of {TURN}"
    if about.integers and about.integers.row_bytes and constants["scales"].shape != (rows,):
        return f"scales is {list(constants['scales'].shape)}, it must be [{rows}]"
    return ""


def _decoded(packed: PackedLinear, dtype: np.dtype[Any] | None) -> tuple[NDArray[Any], str]:
    """Returns the bits of all weights, or their integers, and the fault of the scales. dtype: type of X, None if unknown."""
    if packed.weights is None:
        return unpack(packed), ""
    integers, scales = unpack_quantised(packed, np.dtype(np.float16) if dtype is None else dtype)
    known = dtype is not None or packed.scales is not None
    if known and not np.isfinite(scales).all():
        return integers, "a scale is not finite"
    return integers, ""
