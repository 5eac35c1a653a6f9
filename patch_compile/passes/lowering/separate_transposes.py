"""Keeps Transposes away from PatchLinears, because ONNX Runtime crashes on some of them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from patch_compile.onnx_io.proto import STANDARD_DOMAINS
from patch_compile.packing.function import DOMAIN
from patch_compile.passes.linear_node import insert_cast

_FLOAT16 = ir.DataType.FLOAT16


class SeparateTransposesPass(ir.passes.InPlacePass):
    """`PatchLinear(Transpose(x))` -> `PatchLinear(Cast(Cast(Transpose(x))))`: Casts to fp32 and back.

    X is fp16, transposed from [A, …, K] to […, A, K] or to […, K, A].

    ONNX Runtime (1.32, with all optimizations) moves a Cast of X before such a Transpose, to fuse Transpose and MatMul, and
    leaves behind a Transpose without schema, which the next optimizer reads: a segmentation fault. PatchLinear's function
    begins with a Cast of X. The two Casts before it change no number and stop that.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert the Casts after each such Transpose, once for all nodes that read it."""
        separated: dict[ir.Value, ir.Value] = {}
        for node in list(model.graph):
            x = node.inputs[0] if node.domain == DOMAIN else None
            if x is None or x.dtype != _FLOAT16 or not any(map(_is_fused, _permutations(x))):
                continue
            if x not in separated:
                separated[x] = x
                for end, dtype in (("separated_wide", ir.DataType.FLOAT), ("separated", _FLOAT16)):
                    maker = separated[x].producer()
                    assert maker is not None
                    separated[x] = insert_cast(
                        model.graph, maker, separated[x], f"{x.name}/{end}", dtype, behind=True
                    )
            node.replace_input_with(0, separated[x])
        return ir.passes.PassResult(model, modified=bool(separated))


def _permutations(x: ir.Value) -> Iterator[tuple[int, ...]]:
    """Yield the permutations of axes before a value: by the last Transpose, by the last two together, and so on. ONNX
    Runtime joins Transposes, also with a Cast between them."""
    whole: tuple[int, ...] | None = None
    node = x.producer()
    while node is not None and node.domain in STANDARD_DOMAINS and node.op_type in ("Transpose", "Cast"):
        if node.op_type == "Transpose":
            axes = tuple(node.attributes.get_ints("perm", ()))
            if not axes:
                return
            whole = axes if whole is None else tuple(axes[axis] for axis in whole)
            yield whole
        elif whole is None and node.inputs[0] is not None and node.inputs[0].dtype == ir.DataType.FLOAT:
            return  # a Cast separates them already
        node = node.inputs[0].producer() if node.inputs[0] is not None else None


def _is_fused(permutation: tuple[int, ...]) -> bool:
    """True if ONNX Runtime fuses a Transpose of this permutation with a MatMul as a product over batches."""
    rank = len(permutation)
    between = tuple(range(1, rank - 1))
    return rank > 2 and permutation in ((*between, 0, rank - 1), (*between, rank - 1, 0))
