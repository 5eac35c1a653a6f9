"""Masks the weights of linears that stay ordinary products."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import onnx_ir as ir
from onnx_ir import passes

from masklearn.masks.linear_mask import LinearMask
from masklearn.model.prune import masked_weight
from patch_compile.passes.find_linears import find_linears
from patch_compile.passes.lowering.packed_initializers import ReadTensor
from patch_compile.planning.lowering import LinearPlan

__all__ = ["MaskLinearsPass"]


class MaskLinearsPass(passes.InPlacePass):
    """`W` -> `W∘M` for each linear planned as `dense`; its MatMul or Gemm stays as it is. Weights are read when written."""

    def __init__(
        self,
        plan: Mapping[str, LinearPlan],
        masks: Mapping[str, LinearMask],
        read: ReadTensor,
        dtype: ir.DataType,
    ) -> None:
        """read: returns the values `[N, K]` of a weight, by name, in the graph's 16-bit type."""
        super().__init__()
        self._planned = [name for name, linear in plan.items() if linear.lowering == "dense"]
        self._masks = masks
        self._read = read
        self._dtype = dtype

    def requires(self, model: ir.Model) -> None:
        """Every linear planned as `dense` is in the graph, and nothing else reads its weight."""
        sites = find_linears(model)
        for name in self._planned:
            if name not in sites:
                raise passes.PreconditionError(f"the graph has no linear {name}")
            if sites[name].shared:
                raise passes.PreconditionError(f"the weight of {name} has another reader")

    def call(self, model: ir.Model) -> passes.PassResult:
        """Give the weights their masked values. `modified` is False if no linear is planned as `dense`."""
        for name, site in find_linears(model).items():
            if name in self._planned:
                site.weight.const_value = ir.LazyTensor(
                    partial(self._masked, name),
                    dtype=self._dtype,
                    shape=ir.Shape(site.shape),
                    name=site.weight.name,
                    cache=False,
                )
        return passes.PassResult(model, modified=bool(self._planned))

    def ensures(self, model: ir.Model) -> None:
        """Every planned weight has values."""
        for name in self._planned:
            if model.graph.initializers[f"{name}.weight"].const_value is None:
                raise passes.PostconditionError(f"the weight of {name} is not masked")

    def _masked(self, name: str) -> ir.TensorProtocol:
        weight = masked_weight(self._read(f"{name}.weight"), self._masks[name].keep())
        return ir.Tensor(weight, dtype=self._dtype, name=f"{name}.weight")
