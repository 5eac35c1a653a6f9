"""Checks the operator sets of an ONNX file before any other module reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.constant_blowup import nested_nodes
from patch_compile.packing.function import DOMAIN

if TYPE_CHECKING:
    import onnx

__all__ = ["OLDEST_OPSET", "check_opsets", "shorten_standard_domain"]

OLDEST_OPSET = 20  # opset of PatchLinear's function; older files are upgraded
_STANDARD = "ai.onnx"  # another spelling of ""
_RUNTIME_DOMAINS = ("com.microsoft",)  # operators that ONNX Runtime adds to the standard


def shorten_standard_domain(proto: onnx.ModelProto) -> None:
    """Replace the domain `ai.onnx`, which some exporters write, by `""`, which passes and converters expect."""
    imports = [
        *proto.opset_import,
        *(opset for function in proto.functions for opset in function.opset_import),
    ]
    for holder in (*imports, *(node for node, _ in _all_nodes(proto))):
        if holder.domain == _STANDARD:
            holder.domain = ""


def check_opsets(path: Path, proto: onnx.ModelProto, *, any_domain: bool = False) -> None:
    """Raise PatchCompileError for an operator of an unknown domain or version. Call `shorten_standard_domain` first.

    any_domain: take operators of domains that only the program that will run the file knows.
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
        if domain == DOMAIN:
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
        "Export the model at an older one, or install a newer onnx and onnxruntime.",
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
