"""Rounds the inputs of linears of type w8a8 to int8 in an ONNX graph, so that it computes what their hybrid computes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from masklearn.quant.grid import Grid, StaticScales
from patch_compile.passes.constants import add_constant
from patch_compile.passes.linear_node import insert_node, insert_rounding, move_readers
from patch_compile.passes.linears import Linear

_FLOAT = ir.DataType.FLOAT
_HIGHEST, _LEAST = 127.0, 2.0**-100


class RoundInputsPass(ir.passes.InPlacePass):
    """X of each linear of w8a8 -> X rounded to int8 numbers times the scale of its token, in the type of X.

    1. Linears that read the same X read the same rounded X.
    2. The scale of a token is its largest input / 127, in fp32. A token without an input of 2^-100 or more becomes zeros.
    3. Hybrids multiply the integers exactly, and the sums by the scale. Here the integers times the scale are rounded to the
       type of X before the product, so outputs can differ by this rounding.
    4. Linears with static scales get QuantizeLinear and DequantizeLinear at X, and at Y if it has a scale.
    """

    def __init__(self, linears: Mapping[str, Linear], grids: Mapping[str, Grid]) -> None:
        """linears: of the model that the pass is called with; grids: of its quantised linears."""
        super().__init__()
        self._linears = [
            (linear, grids[name].activations)
            for name, linear in linears.items()
            if name in grids and rounds_inputs(grids[name])
        ]

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert the rounding in front of the first reader of each X."""
        made: dict[tuple[ir.Value, int], ir.Value] = {}
        for linear, scales in self._linears:
            if scales is not None:
                _round_by(linear, scales)
                continue
            key = linear.x, 1 if linear.spatial else -1
            if key not in made:
                made[key] = _rounded(linear, axis=key[1])
            linear.product.replace_input_with(0, made[key])
        return ir.passes.PassResult(model, modified=bool(self._linears))


def rounds_inputs(grid: Grid) -> bool:
    """True if linears with this grid round their inputs to int8."""
    return grid.type.input_bits == 8


def write_rounded(path: Path, grids: Mapping[str, Grid], out: Path) -> None:
    """Write the ONNX file at `path`, whose linears have ordinary weights, to `out` with rounded inputs of linears of w8a8.

    grids: of the quantised linears.
    """
    from patch_compile.onnx_io.read import read_onnx
    from patch_compile.onnx_io.write import write_onnx
    from patch_compile.passes.find_linears import linears_of_file

    model = read_onnx(path)
    write_onnx(RoundInputsPass(linears_of_file(path, model).linears, grids)(model).model, out)


def _round_by(linear: Linear, scales: StaticScales) -> None:
    """Round X and Y of a linear by static scales."""
    product, y, last = linear.product, linear.output, linear.nodes[-1]
    graph = product.graph
    assert graph is not None
    rounded = insert_rounding(graph, product, linear.x, scales.input, f"{linear.name}/int8/x")
    product.replace_input_with(0, rounded)
    if scales.output is not None:
        uses = list(y.uses())
        rounded = insert_rounding(graph, last, y, scales.output, f"{linear.name}/int8/y", behind=True)
        move_readers(y, uses, rounded)


def _rounded(linear: Linear, axis: int) -> ir.Value:
    """Returns the rounded X of a linear. axis: of the features."""
    x, place, graph = linear.x, linear.product, linear.product.graph
    dtype = x.dtype
    assert graph is not None and dtype is not None

    def node(op_type: str, inputs: list[ir.Value]) -> ir.Value:
        return insert_node(graph, place, op_type, inputs, name(), _FLOAT)

    def cast(value: ir.Value, to: ir.DataType) -> ir.Value:
        return insert_node(graph, place, "Cast", [value], name(), to, to=int(to))

    def name() -> str:
        return f"{linear.name}/int8/{len(graph)}"  # the graph grows by each node

    def constant(what: str, array: NDArray[Any]) -> ir.Value:
        return add_constant(graph, f"{linear.name}/int8/{what}", array)

    highest = constant("highest", np.array(_HIGHEST, np.float32))
    least = constant("least", np.array(_LEAST, np.float32))
    unit = constant("unit", np.array(1, np.float32))
    wide = x if dtype == _FLOAT else cast(x, _FLOAT)
    largest = node("ReduceMax", [node("Abs", [wide]), constant("axis", np.array([axis]))])
    reached = insert_node(graph, place, "GreaterOrEqual", [largest, least], name(), ir.DataType.BOOL)
    divisor = node("Where", [reached, largest, unit])  # 127 / 1 rounds what is below 2^-100 to 0
    integers = node("Round", [node("Mul", [wide, node("Div", [highest, divisor])])])
    rounded = node("Mul", [integers, node("Div", [largest, highest])])
    rounded = rounded if dtype == _FLOAT else cast(rounded, dtype)
    rounded.shape = x.shape
    return rounded
