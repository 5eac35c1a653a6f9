"""Merges small constants that are equal."""

import onnx_ir as ir

from patch_compile.passes.constants import constant_of


class DeduplicateConstantsPass(ir.passes.InPlacePass):
    """`f(c), g(d)` -> `f(c), g(c)`, for small constants c and d of equal type, shape and bytes.

    Weights are neither read nor merged. The equivalent pass of onnx_ir can't be used: it warns about every weight that has
    no data yet.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Keep the first of equal constants."""
        kept: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        modified = False
        for value in list(model.graph.initializers.values()):
            array = constant_of(value)
            if array is None or value.is_graph_output():
                continue
            first = kept.setdefault((array.dtype.name, array.shape, array.tobytes()), value)
            if first is not value:
                value.replace_all_uses_with(first)
                assert value.name is not None
                model.graph.initializers.pop(value.name)
                modified = True
        return ir.passes.PassResult(model, modified=modified)
