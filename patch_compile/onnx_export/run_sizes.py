"""Sizes in the shapes of a traced graph that only a run tells, such as the number of tokens that an expert gets.

torch names them u0, u1, … in the order in which it meets them, so two blocks that are alike have other names for them.
"""

import re

import onnx_ir as ir

__all__ = ["PairedSizes", "moved_shape"]

_SIZE = re.compile(r"\bu\d+(_\d+)?\b")


class PairedSizes:
    """Pairs the sizes of one block with those of another, each with one of the other's."""

    def __init__(self) -> None:
        self._pairs: dict[str, str] = {}
        self._back: dict[str, str] = {}

    def pair(self, a: ir.Shape | None, b: ir.Shape | None) -> bool:
        """Returns True if two shapes are the same but for the names of sizes, and these fit the pairs so far."""
        if a is None or b is None:
            return a is b
        return len(a) == len(b) and all(self._pair(str(x), str(y)) for x, y in zip(a, b, strict=True))

    def _pair(self, a: str, b: str) -> bool:
        names = zip(_names(a), _names(b), strict=False)
        return _SIZE.sub("u", a) == _SIZE.sub("u", b) and all(
            self._pairs.setdefault(x, y) == y and self._back.setdefault(y, x) == x for x, y in names
        )


def moved_shape(shape: ir.Shape | None, first: int) -> ir.Shape | None:
    """Returns the shape of a value of the block that starts at layer `first`: its sizes have names of this block."""
    if shape is None or not any(_names(str(dim)) for dim in shape):
        return shape
    return ir.Shape([_moved(dim, first) for dim in shape])


def _moved(dim: int | ir.SymbolicDim, first: int) -> int | ir.SymbolicDim:
    if isinstance(dim, int) or dim.value is None:
        return dim
    return ir.SymbolicDim(_SIZE.sub(lambda match: f"{match[0].partition('_')[0]}_{first}", dim.value))


def _names(text: str) -> list[str]:
    return [match[0] for match in _SIZE.finditer(text)]
