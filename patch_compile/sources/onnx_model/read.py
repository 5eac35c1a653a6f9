"""Read an ONNX file made by others: checked, with every weight an initializer of the main graph, none of them read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.external import map_external_data
from patch_compile.onnx_io.proto import load_proto
from patch_compile.sources.onnx_model.opsets import OLDEST_OPSET, check_opsets, shorten_standard_domain

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["read_onnx"]


def read_onnx(path: Path) -> ir.Model:
    """The model at `path` as the other parts want it; the file's tensors stay in their files.

    1. Model-local functions are inlined, and opsets before 20 upgraded: PatchLinear's function needs 20.
    2. Weights in Constant nodes and in subgraphs become initializers of the main graph.
    3. Initializers that are inputs of the graph too (as IR version 3 wants) are constants.
    4. Shapes and types are inferred.

    Raises PatchCompileError for a file that is no model, that ONNX here doesn't know the version of, whose external data
    are missing or short, or that was compiled before.
    """
    from onnx_ir.passes import common

    proto = load_proto(path)
    shorten_standard_domain(proto)
    check_opsets(path, proto)
    model = _deserialized(path, proto)
    with _quiet():
        for graph_pass in (
            common.InlinePass(),
            common.RemoveInitializersFromInputsPass(),
            common.LiftConstantsToInitializersPass(),
            common.LiftSubgraphInitializersToMainGraphPass(),
        ):
            model = graph_pass(model).model
        map_external_data(path, model)
        model = _upgraded(path, model)
        common.NameFixPass()(model)
        return common.ShapeInferencePass()(model).model


def _deserialized(path: Path, proto: onnx.ModelProto) -> ir.Model:
    import onnx_ir as ir

    try:
        return ir.from_proto(proto)
    except ir.serde.SerdeError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # each level of the graph wraps it once more
            cause = cause.__cause__
        raise PatchCompileError(
            f"{path} can't be taken apart",
            str(cause).partition(". ")[0],
            "TensorRT takes graphs of tensors alone: export the model without maps, and without post-processing.",
        ) from error


def _upgraded(path: Path, model: ir.Model) -> ir.Model:
    from onnxscript.version_converter import ConvertVersionPass

    before = model.graph.opset_imports.get("", OLDEST_OPSET)
    if before >= OLDEST_OPSET:
        return model
    try:
        model = ConvertVersionPass(OLDEST_OPSET, fallback=True)(model).model
        why = "the converter of the ONNX library does not know how"
    except Exception as error:  # two converters, in Python and C++, each with errors of its own
        why = str(error).splitlines()[0]
    if model.graph.opset_imports.get("") != OLDEST_OPSET:
        raise PatchCompileError(
            f"{path} has opset {before} and can't be upgraded to {OLDEST_OPSET}",
            why,
            f"Export the model again, at opset {OLDEST_OPSET} or later.",
        )
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """What the libraries log while they convert is no concern of the user: what fails is raised."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
