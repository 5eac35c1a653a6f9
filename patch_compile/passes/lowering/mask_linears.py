"""Masks the weights of linears that stay ordinary products."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import passes

from masklearn.masks.linear_mask import LinearMask
from masklearn.model.prune import masked_weight
from patch_compile.onnx_io.write import lazy_tensor
from patch_compile.passes.find_linears import lowerable_linears
from patch_compile.passes.lowering.gather_linears import check_planned
from patch_compile.passes.lowering.packed_initializers import ReadTensor
from patch_compile.planning.lowering import LinearPlan


class MaskLinearsPass(passes.InPlacePass):
    """`W` -> `W∘M` for each linear planned as `dense`; its MatMul or Gemm stays unchanged. Weights are read when written."""

    def __init__(
        self,
        plan: Mapping[str, LinearPlan],
        masks: Mapping[str, LinearMask],
        read: ReadTensor,
        dtype: ir.DataType,
    ) -> None:
        """read: returns the values `[N, K]` of a weight, by name, in the graph's 16-bit type."""
        super().__init__()
        self._planned = {name: linear.shape for name, linear in plan.items() if linear.lowering == "dense"}
        self._masks = masks
        self._read = read
        self._dtype = dtype

    def requires(self, model: ir.Model) -> None:
        """Every linear planned as `dense` is in the graph, and nothing else reads its weight."""
        check_planned(model, self._planned, self._dtype)

    def call(self, model: ir.Model) -> passes.PassResult:
        """Give the weights their masked values. `modified` is False if no linear is planned as `dense`."""
        for name, linear in lowerable_linears(model).items():
            if name in self._planned:
                tensor = lazy_tensor(f"{name}.weight", linear.shape, self._dtype, partial(self._masked, name))
                linear.weight.const_value = tensor
        return passes.PassResult(model, modified=bool(self._planned))

    def ensures(self, model: ir.Model) -> None:
        """Every planned weight has values."""
        for name in self._planned:
            if model.graph.initializers[f"{name}.weight"].const_value is None:
                raise passes.PostconditionError(f"the weight of {name} is not masked")

    def _masked(self, name: str) -> NDArray[Any]:
        return masked_weight(self._read(f"{name}.weight"), self._masks[name].keep())
