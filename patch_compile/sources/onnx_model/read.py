"""Reads an arbitrary ONNX file and checks it. All weights become initializers of the main graph, and none is read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from patch_compile.errors import PatchCompileError, sentence
from patch_compile.onnx_io.external import map_external_data
from patch_compile.onnx_io.proto import load_proto, model_of
from patch_compile.sources.onnx_model.opsets import OLDEST_OPSET, check_opsets, shorten_standard_domain

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["read_as_exported", "read_onnx"]


def read_onnx(path: Path) -> ir.Model:
    """Returns the model at `path` in a normalized form. Tensors stay in their files.

    1. Model-local functions are inlined. Opsets before 20 are upgraded, because PatchLinear's function needs 20.
    2. Weights in Constant nodes and in subgraphs become initializers of the main graph.
    3. Initializers that are also inputs of the graph (IR version 3 requires this) become constants.
    4. Shapes and types are inferred.

    Raises PatchCompileError for a file that is no model, has a version that the installed onnx does not know, has missing
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
    shorten_standard_domain(proto)
    check_opsets(path, proto)
    model = model_of(path, _inlined(proto))
    with _quiet():
        for graph_pass in (
            common.InlinePass(),  # functions of another opset than the graph's
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
    """Returns the model at `path` with the nodes that its exporter wrote, also those of unknown domains. Tensors stay in
    their files.

    Types and shapes are inferred where the file lacks them. Two kinds of files are changed: an opset before 20 is upgraded,
    and weights of subgraphs that lie in data files become initializers of the main graph, which are written to a new file.

    Raises PatchCompileError as `read_onnx` does, but not for operators of unknown domains.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common

    proto = load_proto(path)
    shorten_standard_domain(proto)
    check_opsets(path, proto, any_domain=True)
    model = model_of(path, proto)
    with _quiet():
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

    return inliner.inline_local_functions(proto) if proto.functions else proto


def _check_sizes(path: Path, model: ir.Model) -> None:
    """Raise PatchCompileError for a tensor whose bytes are not those of its type and shape. ONNX Runtime finds them too, but
    it does not run files of bfloat16."""
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the log messages of the conversion libraries. Failures are raised, so the messages do not help the user."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
