"""Reads the modules around a node, which torch's exporter writes into its metadata."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["torch_scopes"]

_KEY = "pkg.torch.onnx.name_scopes"  # of a text such as "['', 'layers.1', 'layers.1.linear2', 'linear_7']"


def torch_scopes(node: ir.Node) -> list[str]:
    """Returns the paths of the modules around a node, from outside to inside, and the node's own name; empty if torch's
    exporter did not write them."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get(_KEY, "[]"))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return []  # another program's text under the same key
    return [str(scope) for scope in scopes] if isinstance(scopes, list) else []
