"""What rounding alone does: the pruned model with the inputs and outputs of its packed linears rounded to 16 bits."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from patch_compile.sources.onnx_model.linears import OnnxLinear

__all__ = ["RoundLinearsPass"]


class RoundLinearsPass(ir.passes.InPlacePass):
    """X and Y of each linear -> Cast to the 16-bit type and back, the linear itself staying what it was.

    Where a PatchLinear stands between Casts, these are the roundings that it brings, and no others but that of its bias.
    """

    def __init__(self, linears: Mapping[str, OnnxLinear], dtype: ir.DataType) -> None:
        """linears: of the model that the pass is called with; dtype: FLOAT16 or BFLOAT16."""
        super().__init__()
        self._linears = linears
        self._dtype = dtype

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Round in front of and behind each linear."""
        for linear in self._linears.values():
            first, last = linear.nodes[0], linear.nodes[-1]
            y, readers = linear.output, list(linear.output.uses())
            first.replace_input_with(0, self._rounded(linear.x, first, f"{linear.name}/x"))
            after = last.graph
            assert after is not None
            rounded = self._rounded(y, last, f"{linear.name}/y", behind=True)
            for use in readers:
                use.node.replace_input_with(use.idx, rounded)
            if y.is_graph_output():
                rounded.name, y.name = y.name, f"{y.name}/exact"
                model.graph.outputs[model.graph.outputs.index(y)] = rounded
        return ir.passes.PassResult(model, modified=bool(self._linears))

    def _rounded(self, value: ir.Value, place: ir.Node, name: str, *, behind: bool = False) -> ir.Value:
        wide = value.dtype
        assert wide is not None and place.graph is not None
        narrow = ir.node("Cast", [value], attributes={"to": int(self._dtype)}, name=f"{name}/narrow")
        back = ir.node("Cast", narrow.outputs, attributes={"to": int(wide)}, name=f"{name}/wide")
        for node, dtype in ((narrow, self._dtype), (back, wide)):
            node.outputs[0].name, node.outputs[0].type = str(node.name), ir.TensorType(dtype)
            node.outputs[0].shape = value.shape
        insert = place.graph.insert_after if behind else place.graph.insert_before
        insert(place, [narrow, back])
        return back.outputs[0]
