"""Copies of ONNX files that ONNX Runtime runs on this machine.

ONNX Runtime has no bfloat16 kernels for MatMul, Attention or RMSNormalization on CPUs, and few on GPUs. A bfloat16 model
therefore runs as a float32 copy that rounds like bfloat16.

ONNX Runtime would decode packed weights when it loads a file, and hold all intermediates of all linears meanwhile: 29 bytes
for each of their weights. The decoded copy is made one linear after the other. Its weights have 16 bits and lie in a
file, so that a session can map them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from masklearn.base.durable import temporary_file, whole_file
from patch_compile.onnx_io.proto import load_proto
from patch_compile.onnx_io.session import open_session

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

Update = Callable[[str, int, int], object]


def holds_bfloat16(path: Path) -> bool:
    """True if an input, weight or result of the file's graph is bfloat16. Reads no weights."""
    return _is_bfloat16(load_proto(path))


def runnable_onnx(path: Path, scratch: Path) -> Path:
    """Returns the file itself, or a float32 copy in the folder `scratch` if the file holds bfloat16."""
    proto = load_proto(path)
    if not _is_bfloat16(proto):
        return path
    import onnx_ir as ir

    from patch_compile.onnx_io.emulate_bfloat16 import EmulateBfloat16Pass
    from patch_compile.onnx_io.external import map_external_data
    from patch_compile.onnx_io.write import write_onnx

    copy, model = scratch / f"runnable-{path.parent.name}-{path.name.lstrip('.')}", ir.from_proto(proto)
    map_external_data(path, model)  # files reused from an earlier build are hard links, which onnx-ir refuses
    write_onnx(EmulateBfloat16Pass()(model).model, copy)
    return copy


def _is_bfloat16(proto: onnx.ModelProto) -> bool:
    import onnx

    graph, bfloat16 = proto.graph, onnx.TensorProto.BFLOAT16
    values = (*graph.input, *graph.output, *graph.value_info)
    return any(tensor.data_type == bfloat16 for tensor in graph.initializer) or any(
        value.type.tensor_type.elem_type == bfloat16 for value in values
    )


def decoded_onnx(path: Path, scratch: Path, update: Update) -> Path:
    """Returns a copy in the folder `scratch`, or the file itself if it has no packed weights.

    Functions are inlined, and ONNX Runtime computes what they compute from weights only; also transposes of weights. It must
    be able to run the file, see `runnable_onnx`. update: called before each node that is computed. Raises PatchCompileError
    as `load_proto` and `map_external_data` do.
    """
    import onnx
    import onnx_ir as ir

    from patch_compile.onnx_io.external import map_external_data
    from patch_compile.onnx_io.write import store_tensors

    proto = load_proto(path)
    if not proto.functions:
        return path
    model = ir.from_proto(proto)
    map_external_data(path, model)
    nodes: list[onnx.NodeProto] = []

    def tensors() -> Iterator[tuple[str, ir.TensorProtocol]]:
        """Yield the computed values, and then the weights that are read as they are. Fills `nodes`."""
        for done, node in enumerate(proto.graph.node):
            update("decoding weights", done, len(proto.graph.node))
            behind, values = _decoded(node, proto, path)
            nodes.extend(behind)
            yield from ((name, ir.tensor(array)) for name, array in values.items())
        read = {name for node in nodes for name in node.input}
        for name, value in model.graph.initializers.items():
            if name in read and value.const_value is not None:
                yield name, value.const_value

    copy = scratch / f"decoded-{path.parent.name}-{path.name.lstrip('.')}"
    data = copy.with_name(f"{copy.name}.data")
    with whole_file(copy) as copy_part, whole_file(data) as data_part:
        stored = store_tensors(tensors(), data_part, data.name)
        for field in (proto.graph.initializer, proto.graph.node, proto.functions):
            del field[:]
        proto.graph.initializer.extend(map(ir.serde.serialize_tensor, stored))
        proto.graph.node.extend(nodes)
        onnx.save_model(proto, str(copy_part))
    return copy


def _decoded(
    node: onnx.NodeProto, proto: onnx.ModelProto, path: Path
) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
    """Returns the nodes that take the place of a node, and the values that they read besides weights and activations."""
    from onnx import TensorProto, helper

    weights = [tensor for tensor in proto.graph.initializer if tensor.name in node.input]
    function = next((function for function in proto.functions if _calls(node, function)), None)
    if not weights or (function is None and node.op_type != "Transpose"):
        return [node], {}
    inlined = [node] if function is None else _inlined(node, function, weights, proto)
    before: list[onnx.NodeProto] = []
    behind: list[onnx.NodeProto] = []
    known = {tensor.name for tensor in weights}
    for inner in inlined:
        constant = all(name in known for name in inner.input if name)
        known.update(inner.output if constant else ())
        (before if constant else behind).append(inner)
    # A weight keeps its 16 bits: it is widened in each run.
    casts = [inner for inner in before if inner.op_type == "Cast" and _read({*inner.output}, behind)]
    before, behind = [inner for inner in before if inner not in casts], [*casts, *behind]
    made = {name for inner in before for name in inner.output}
    names = sorted(_read(made, behind) or made.intersection(node.output))
    values = _computed(before, names, weights, proto, path)
    for name, array in list(values.items()):
        if array.dtype != np.float32:
            continue
        narrow = array.astype(ml_dtypes.bfloat16)
        if np.array_equal(narrow.astype(np.float32), array):  # a weight of a graph for bfloat16
            del values[name]
            values[f"{name}/narrow"] = narrow
            behind.insert(0, helper.make_node("Cast", [f"{name}/narrow"], [name], name, to=TensorProto.FLOAT))
    return behind, values


def _calls(node: onnx.NodeProto, function: onnx.FunctionProto) -> bool:
    called = (node.domain, node.op_type, node.overload)
    return called == (function.domain, function.name, function.overload)


def _read(names: set[str], nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Returns the names that the nodes read."""
    return names.intersection(name for node in nodes for name in node.input)


def _inlined(
    node: onnx.NodeProto,
    function: onnx.FunctionProto,
    weights: list[onnx.TensorProto],
    proto: onnx.ModelProto,
) -> list[onnx.NodeProto]:
    """Returns the nodes of a call. Names of values inside begin with the name of its output."""
    from onnx import inliner

    caller = _model([node], [*node.input], [*node.output], weights, proto, [function])
    nodes, outside = [], {"", *node.input, *node.output}
    for inner in inliner.inline_local_functions(caller).graph.node:
        for names in (inner.input, inner.output):
            names[:] = [name if name in outside else f"{node.output[0]}/{name}" for name in names]
        inner.name = inner.output[0]
        nodes.append(inner)
    return nodes


def _computed(
    nodes: list[onnx.NodeProto],
    names: list[str],
    weights: list[onnx.TensorProto],
    proto: onnx.ModelProto,
    path: Path,
) -> dict[str, NDArray[Any]]:
    """Returns values that the nodes compute from weights of the file."""
    import onnx

    with temporary_file(path) as file:  # next to the file, because it names the same data
        onnx.save_model(_model(nodes, [], names, weights, proto), str(file))
        session = open_session(file, mapped=True)
        return dict(zip(names, session.run(names, {}), strict=True))


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[str],
    outputs: list[str],
    weights: list[onnx.TensorProto],
    proto: onnx.ModelProto,
    functions: Iterable[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """Returns a model of some nodes, with the versions of `proto`."""
    from onnx import ValueInfoProto, helper

    stored = {tensor.name for tensor in weights}
    fed = [ValueInfoProto(name=name) for name in dict.fromkeys(inputs) if name and name not in stored]
    graph = helper.make_graph(
        nodes, "part", fed, [ValueInfoProto(name=name) for name in outputs], initializer=weights
    )
    return helper.make_model(
        graph, opset_imports=proto.opset_import, ir_version=proto.ir_version, functions=list(functions)
    )
