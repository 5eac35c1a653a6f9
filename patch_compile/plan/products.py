"""Linears of one input as the products they are computed in: several as one, in the dense model and in the planned one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from masklearn.checkpoint.architectures import Architecture
from patch_compile.out.plan import LinearTimes
from patch_compile.packing.fusion import GATED, QKV
from patch_compile.plan.cost import CostModel
from patch_compile.plan.lowering import LinearPlan

__all__ = [
    "Together",
    "compiled_together",
    "cost_together",
    "fused_together",
    "products_of",
    "together_by_name",
]

_GATED_ROWS = 128  # two panels of 64 give a block of the kernel the sums of one of 128


@dataclass(frozen=True)
class Together:
    """Names of linears of one input, in the order of the model; gated: a gate and its up."""

    linears: tuple[str, ...]
    gated: bool = False


def together_by_name(linears: Collection[str], architecture: Architecture) -> tuple[Together, ...]:
    """What an architecture's names tell: q, k and v of a block, gate and up."""
    gate_and_up = architecture.mlp[0] if len(architecture.mlp[0]) > 1 else ()
    found = [
        *(Together(names) for names in _siblings(linears, architecture.qkv)),
        *(Together(names, gated=True) for names in _siblings(linears, gate_and_up)),
    ]
    return tuple(one for one in found if len(one.linears) > 1)


def fused_together(found: Collection[Together], fuse: Collection[str]) -> tuple[Together, ...]:
    """Those that are to share a node, where the graph allows it."""
    return tuple(one for one in found if (GATED if one.gated else QKV) in fuse)


def compiled_together(plans: Collection[LinearPlan]) -> tuple[Together, ...]:
    """Those that do, once the graph has told."""
    nodes = dict.fromkeys(plan.node for plan in plans if plan.lowering == "plugin")
    return tuple(Together(node.linears, node.gated) for node in nodes if len(node.linears) > 1)


def products_of(
    plans: Collection[LinearPlan], together: Collection[Together]
) -> Iterator[tuple[tuple[LinearPlan, ...], bool]]:
    """The linears of each product, those that are in none together on their own; whether they are gate and up."""
    left = {plan.name: plan for plan in plans}
    for one in together:
        product = tuple(left.pop(name) for name in one.linears if name in left)
        if product:
            yield product, one.gated and len(product) > 1
    yield from (((plan,), False) for plan in left.values())


def cost_together(product: Sequence[LinearPlan], gated: bool, costs: CostModel) -> LinearTimes:
    """Times of linears that are computed as one; of one alone, its own."""
    if len(product) == 1 and product[0].predicted is not None:
        return product[0].predicted
    rows = _GATED_ROWS if gated else min(plan.panel_rows for plan in product)
    dense, sparse = sum(plan.dense_slabs for plan in product), sum(plan.sparse_slabs for plan in product)
    shape = (sum(plan.shape[0] for plan in product), product[0].shape[1])
    return costs.of(shape, rows, dense, sparse, gated=gated)


def _siblings(linears: Collection[str], ends: Collection[str]) -> Iterator[tuple[str, ...]]:
    """Names that differ in their ends alone."""
    found: dict[str, list[str]] = {}
    for name in linears:
        owner, _, end = name.rpartition(".")
        if end in ends:
            found.setdefault(owner, []).append(name)
    return (tuple(names) for names in found.values())
