"""Checks that a compiled linear is valid, that kernels run it, and that a PatchLinear has the version that is read here.

An InvariantError is a bug of this package, never the user's mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.kinds.base import TileKind
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.tiles import GROUP
from masklearn.quant.table import FLOAT16, WeightType
from patch_compile.artifacts.layout import RECIPE
from patch_compile.errors import InvariantError, PatchCompileError
from patch_compile.packing.format import KERNEL_ROWS, PackedLinear, count_wrong
from patch_compile.packing.function import VERSION
from patch_compile.packing.index import Place
from patch_compile.packing.quantised import count_wrong_integers
from patch_compile.packing.slab_kinds import kernels_have_wide_panels

if TYPE_CHECKING:
    import onnx


def check_packed(
    name: str,
    packed: PackedLinear,
    weight: NDArray[Any],
    mask: LinearMask,
    place: Place | None = None,
) -> None:
    """Decode the packed tensors and compare them with `W∘M: [N, K]` bit for bit.

    weight: raw bits of 16-bit values; of quantised weights the values in the graph's 16-bit type T, which are T(q·s).
    place: where `packed` holds this linear; None means that it holds no other.

    Decoding fails if a slab is stored twice or not at all, or if metadata are not 2:4. Equality then shows that every
    weight is stored once, and that exactly the weights under the mask are zero. Raises InvariantError with the linear's
    name.
    """
    own = place or Place(np.arange(-(-weight.shape[0] // packed.panel_rows)))
    try:
        count = count_wrong if packed.weights is None else count_wrong_integers
        wrong = count(packed, weight, mask, own)
    except ValueError as error:
        raise InvariantError(f"{name}: {error}") from error
    if wrong:
        raise InvariantError(f"{name}: {wrong} weights decode to other bits than the masked weight has")


def check_two_four(name: str, part: NDArray[Any]) -> None:
    """Raise InvariantError if a group of 4 consecutive k keeps more than 2 values.

    part: 16-bit values or int8 `[rows, K]`.
    """
    kept = (part.view(f"u{part.itemsize}") != 0).reshape(len(part), -1, GROUP).sum(axis=-1)
    if kept.max(initial=0) > 2:
        raise InvariantError(f"{name}: {int((kept > 2).sum())} groups of 4 along K keep more than 2 weights")


def kernel_fault(
    weights: WeightType | None, kinds: Sequence[TileKind], panel_rows: object, columns: object
) -> str:
    """Returns why no kernel runs a linear, in words; empty if a kernel does.

    weights: None for 16 bits; kinds: of its slabs; panel_rows, columns (K): as a file tells them.
    """
    if other := next((kind for kind in kinds if not kind.goes_with(weights or FLOAT16)), None):
        return f"its {weights or '16-bit'} weights have slabs of {other}, which no kernel runs"
    if panel_rows != KERNEL_ROWS and not kernels_have_wide_panels(kinds, weights):
        what = f"{weights} weights" if weights else f"slabs of {kinds[-1].name}"
        return f"its {what} have panels of other than {KERNEL_ROWS} rows, which no kernel runs"
    if weights is None:
        return ""
    if isinstance(columns, int) and not weights.fits(columns):
        if columns > weights.most_columns:
            return f"its K is {columns}, and int32 holds sums over {weights.most_columns} columns"
        return f"its K is {columns}, no multiple of the {weights.span} columns of a scale"
    return ""


_ATTRIBUTE = "plugin_version"
_BUILD = f"`patch-compile build --recipe OUT/{RECIPE}`"


def version_fault(version: object) -> str:
    """Returns the fault in a node's `plugin_version`, in words; empty for the version that is read here.

    version: None if the node has no version; then the model's own function computes it, in any version.
    """
    if version in (None, str(VERSION)):
        return ""
    return (
        f"it is a PatchLinear of version {str(version)[:20]!r}, and {str(VERSION)!r} is read here: "
        f"build the model again: {_BUILD}"
    )


def check_version(path: Path, nodes: Iterable[onnx.NodeProto]) -> None:
    """Raise PatchCompileError if a PatchLinear node was written for another version of the plugin."""
    from onnx import helper

    for node in nodes:
        for attribute in node.attribute:
            if attribute.name != _ATTRIBUTE:
                continue
            value = helper.get_attribute_value(attribute)
            version = value.decode(errors="replace") if isinstance(value, bytes) else value
            if version_fault(version):
                shown = str(version)[:20]
                raise PatchCompileError(
                    f"{path} holds PatchLinears of version {shown if shown.isalnum() else repr(shown)}",
                    f"This patch-compile reads version {VERSION}.",
                    f"Build the model again: {_BUILD}.",
                )
