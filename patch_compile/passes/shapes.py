"""Compares shapes that may have symbolic dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["same_known_shape"]


def same_known_shape(a: ir.Shape | None, b: ir.Shape | None) -> bool:
    """True if both shapes are known and all dimensions are equal. Symbolic dimensions are compared by name."""
    if a is None or b is None or len(a) != len(b):
        return False
    return all(x == y and (isinstance(x, int) or x.value is not None) for x, y in zip(a, b, strict=True))
