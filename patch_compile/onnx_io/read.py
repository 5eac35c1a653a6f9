"""Reads an arbitrary ONNX file and checks it. All weights become initializers of the main graph, and none is read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from patch_compile.errors import PatchCompileError, sentence
from patch_compile.onnx_io.external import map_external_data
from patch_compile.onnx_io.proto import load_proto, model_of, nested_nodes, silenced
from patch_compile.packing.function import DOMAIN

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

OLDEST_OPSET = 20  # opset of PatchLinear's function; older files are upgraded
_STANDARD = "ai.onnx"  # another spelling of ""
_RUNTIME_DOMAINS = ("com.microsoft",)  # operators that ONNX Runtime adds to the standard
# Their failures are raised, so their log messages do not help the user.
_CONVERTERS = ("onnxscript", "onnx_ir")


def read_onnx(path: Path, *, any_node: bool = False) -> ir.Model:
    """Returns the model at `path` in a normalized form. Tensors stay in their files.

    any_node: also takes PatchLinear, which stays a node, and operators that only the program that runs the file knows.

    1. Model-local functions are inlined. Opsets before 20 are upgraded, because PatchLinear's function needs 20.
    2. Weights in Constant nodes and in subgraphs become initializers of the main graph.
    3. Initializers that are also inputs of the graph (IR version 3 requires this) become constants.
    4. Shapes and types are inferred.

    Raises PatchCompileError for a file that is not a model, has a version that the installed onnx does not know, has missing
    or short data, or is already compiled.
    """
    from onnx_ir.passes import common

    proto = load_proto(path)
    if not proto.graph.output:
        raise PatchCompileError(
            f"{path} has no outputs",
            "Nothing that it computes is returned.",
            "Export the model with its outputs.",
        )
    _shorten_standard_domain(proto)
    _check_opsets(path, proto, any_domain=any_node, compiled=any_node)
    model = model_of(path, _inlined(proto))
    with silenced(logging.CRITICAL, *_CONVERTERS):
        for graph_pass in (
            # Functions of another opset than the graph's.
            common.InlinePass(criteria=lambda function: function.domain != DOMAIN),
            common.RemoveInitializersFromInputsPass(),
            common.LiftConstantsToInitializersPass(),
            common.LiftSubgraphInitializersToMainGraphPass(),
        ):
            model = graph_pass(model).model
        map_external_data(path, model)
        _check_sizes(path, model)
        _describe_by_tensors(model)
        model = _upgraded(path, model)
        # Only now, because the converters of old opsets look for some small constants in nodes.
        common.LiftConstantsToInitializersPass(size_limit=0)(model)
        common.LiftSubgraphInitializersToMainGraphPass()(model)
        common.NameFixPass()(model)
        return common.ShapeInferencePass()(model).model


def read_as_exported(path: Path) -> ir.Model:
    """Returns the model at `path` with the nodes that its exporter wrote, also nodes of unknown domains. Tensors stay in
    their files.

    Types and shapes are inferred where the file lacks them. Two kinds of files are changed: an opset before 20 is upgraded,
    and weights of subgraphs that lie in data files become initializers of the main graph, which are written to a new file.

    Raises PatchCompileError as `read_onnx` does, but not for operators of unknown domains.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common

    proto = load_proto(path)
    _shorten_standard_domain(proto)
    _check_opsets(path, proto, any_domain=True)
    model = model_of(path, proto)
    with silenced(logging.CRITICAL, *_CONVERTERS):
        inner = (graph for graph in model.graphs() if graph is not model.graph)
        tensors = (value.const_value for graph in inner for value in graph.initializers.values())
        if any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors):
            model = common.LiftSubgraphInitializersToMainGraphPass()(model).model
        map_external_data(path, model)
        _check_sizes(path, model)
        _describe_by_tensors(model)
        model = _upgraded(path, model)
        return common.ShapeInferencePass()(model).model


def _inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Inline functions of the graph's own opset. onnx_ir's pass takes a time that grows with the square of the nodes."""
    from onnx import inliner

    packed = [(function.domain, function.name) for function in proto.functions if function.domain == DOMAIN]
    if not packed:
        return inliner.inline_local_functions(proto) if proto.functions else proto
    return inliner.inline_selected_functions(proto, packed, exclude=True)


def _check_sizes(path: Path, model: ir.Model) -> None:
    """Raise PatchCompileError for a tensor whose number of bytes does not fit its type and shape. ONNX Runtime finds it too,
    but it does not run files of bfloat16."""
    import onnx_ir as ir

    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if not isinstance(tensor, ir.serde.TensorProtoTensor) or not tensor.raw.HasField("raw_data"):
            continue
        if len(tensor.raw.raw_data) != tensor.nbytes:
            raise PatchCompileError(
                f"{path} is not a valid ONNX model",
                f"The weight {name!r} is {tensor.dtype.name.lower()} {list(tensor.shape.numpy())}, {tensor.nbytes} bytes, "
                f"and {len(tensor.raw.raw_data)} are there.",
                "Export it again.",
            )


def _describe_by_tensors(model: ir.Model) -> None:
    """Give every initializer the type and shape of its tensor, whatever the file says of it elsewhere."""
    import onnx_ir as ir

    for value in model.graph.initializers.values():
        if value.const_value is not None:
            value.type = ir.TensorType(value.const_value.dtype)
            value.shape = ir.Shape(value.const_value.shape.numpy())


def _upgraded(path: Path, model: ir.Model) -> ir.Model:
    """Returns the model at `OLDEST_OPSET` or its own newer opset. Raises PatchCompileError if it can't be converted."""
    from onnxscript.version_converter import ConvertVersionPass

    before = model.graph.opset_imports.get("", OLDEST_OPSET)
    if before >= OLDEST_OPSET:
        return model
    try:
        model = ConvertVersionPass(OLDEST_OPSET, fallback=True)(model).model
        why = "The converter of the ONNX library does not know how."
    except Exception as error:  # the converters in Python and C++ raise errors of many types
        why = sentence(str(error).partition("\n")[0]) or f"The converter ends with a {type(error).__name__}."
    if model.graph.opset_imports.get("") != OLDEST_OPSET:
        raise PatchCompileError(
            f"{path} has opset {before} and can't be upgraded to {OLDEST_OPSET}",
            why,
            f"Export the model again, at opset {OLDEST_OPSET} or later.",
        )
    return model


def _shorten_standard_domain(proto: onnx.ModelProto) -> None:
    """Replace the domain `ai.onnx`, which some exporters write, by `""`, which passes and converters expect."""
    imports = [
        *proto.opset_import,
        *(opset for function in proto.functions for opset in function.opset_import),
    ]
    for holder in (*imports, *(node for node, _ in _all_nodes(proto))):
        if holder.domain == _STANDARD:
            holder.domain = ""


def _check_opsets(
    path: Path, proto: onnx.ModelProto, *, any_domain: bool = False, compiled: bool = False
) -> None:
    """Raise PatchCompileError for an operator of an unknown domain or version. Call `_shorten_standard_domain` first.

    any_domain: take operators of domains that only the program that will run the file knows; compiled: take PatchLinear.
    """
    import onnx

    if proto.ir_version > onnx.IR_VERSION:
        raise _too_new(path, f"IR version {proto.ir_version}", onnx.IR_VERSION)
    imported = _imported(proto)
    newest = onnx.defs.onnx_opset_version()
    if imported.get("", 0) > newest:
        raise _too_new(path, f"opset {imported['']}", newest)
    known = {schema.domain for schema in onnx.defs.get_all_schemas()} | {*_RUNTIME_DOMAINS}
    known |= {function.domain for function in proto.functions}
    for node, imports in _all_nodes(proto):
        domain = node.domain
        if domain == DOMAIN and not compiled:
            raise PatchCompileError(
                f"{path} is compiled already",
                f"It holds {node.op_type} nodes of the domain {DOMAIN!r}.",
                "Give the model that it was made from.",
            )
        if not any_domain and (domain not in known or domain not in imports):
            raise _unknown(path, node, domain, domain in known)


def _too_new(path: Path, what: str, newest: int) -> PatchCompileError:
    import onnx

    return PatchCompileError(
        f"{path} has {what}",
        f"The package onnx {onnx.__version__} knows versions up to {newest}.",
        "Export the model at an older version, or install a newer onnx and onnxruntime.",
    )


def _unknown(path: Path, node: onnx.NodeProto, domain: str, known: bool) -> PatchCompileError:
    why = f"{node.op_type} {node.name!r} is of the domain {domain!r}"
    if known:
        return PatchCompileError(
            f"{path} does not say which opset it uses of the domain {domain!r}",
            f"{why}.",
            "Export the model again: opset_import names every domain.",
        )
    return PatchCompileError(
        f"{path} uses operators that nothing here can run",
        f"{why}, which is neither ONNX's nor ONNX Runtime's, and no function of the model defines it.",
        "Export the model with standard operators, or with its functions.",
    )


def _imported(proto: onnx.ModelProto | onnx.FunctionProto) -> dict[str, int]:
    return {opset.domain: opset.version for opset in proto.opset_import}


def _all_nodes(proto: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, dict[str, int]]]:
    """Yield every node with the opsets that apply to it. A function has its own opsets."""
    imported = _imported(proto)
    yield from ((node, imported) for node in nested_nodes(proto.graph.node))
    for function in proto.functions:
        own = _imported(function)
        yield from ((node, own) for node in nested_nodes(function.node))
