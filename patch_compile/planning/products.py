"""Groups linears of one input into the products that compute them, in the dense and in the planned model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from masklearn.model.architectures import Architecture
from patch_compile.artifacts.plan import LinearTimes
from patch_compile.packing.fusion import GATED, QKV
from patch_compile.packing.slab_kinds import take_turns
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import LinearPlan, joint_slabs


@dataclass(frozen=True)
class InputGroup:
    """Names of linears of one input, in the order of the model. gated: True for a gate and its up."""

    linears: tuple[str, ...]
    gated: bool = False


def groups_by_name(linears: Collection[str], architecture: Architecture) -> tuple[InputGroup, ...]:
    """Returns the groups that an architecture's names imply: q, k and v of a block, and gate and up."""
    gate_and_up = architecture.mlp[0] if len(architecture.mlp[0]) > 1 else ()
    groups = [
        *(InputGroup(names) for names in _siblings(linears, architecture.qkv)),
        *(InputGroup(names, gated=True) for names in _siblings(linears, gate_and_up)),
    ]
    return tuple(group for group in groups if len(group.linears) > 1)


def fused_groups(
    groups: Collection[InputGroup], fuse: Collection[str], shapes: Mapping[str, tuple[int, int]]
) -> tuple[InputGroup, ...]:
    """Returns the groups that are to share a node if the graph allows it. shapes: `[N, K]` of each linear."""
    return tuple(
        group
        for group in groups
        if (GATED if group.gated else QKV) in fuse
        and (not group.gated or take_turns(*(shapes[name] for name in group.linears)))
    )


def compiled_groups(plans: Collection[LinearPlan]) -> tuple[InputGroup, ...]:
    """Returns the groups that share a node, once the graph is known."""
    nodes = dict.fromkeys(plan.node for plan in plans if plan.node)
    return tuple(InputGroup(node.linears, node.gated) for node in nodes if len(node.linears) > 1)


def products_of(
    plans: Collection[LinearPlan], groups: Collection[InputGroup]
) -> Iterator[tuple[tuple[LinearPlan, ...], bool]]:
    """Yield the linears of each product, and True if they are gate and up. A linear in no group is its own product.

    Linears with weights of different types are in different products.
    """
    left = {plan.name: plan for plan in plans}
    for group in groups:
        members = [left.pop(name) for name in group.linears if name in left]
        for weights in dict.fromkeys(plan.weights for plan in members):
            product = tuple(plan for plan in members if plan.weights == weights)
            yield product, group.gated and len(product) > 1
    yield from (((plan,), False) for plan in left.values())


def cost_together(product: Sequence[LinearPlan], gated: bool, costs: CostModel) -> LinearTimes:
    """Returns the times of linears that one product computes, or that are split and read one X. A single linear has its own
    times."""
    if len(product) == 1 and product[0].predicted is not None:
        return product[0].predicted
    if product[0].split:
        splits = [(plan.shape, plan.split) for plan in product if plan.split]
        return costs.of_split(splits, product[0].weight_type)
    rows, each = min(plan.rows_of_panels for plan in product), [plan.slabs for plan in product]
    if product[0].gated:  # the graph has joined their slabs
        each = each[:1]
    elif gated and all(plan.gated_codes for plan in product):
        rows, each = product[0].heights_with(product[1])[0], [joint_slabs(product)]
    slabs: Counter[str] = Counter()
    for own in each:
        slabs.update(own.by_kind)
    shape = (sum(plan.shape[0] for plan in product), product[0].shape[1])
    return costs.of(shape, rows, slabs, gated=gated, weights=product[0].weight_type)


def faster_apart(pair: Sequence[LinearPlan], costs: CostModel) -> bool:
    """Returns True if a gate and its up are faster in a node each than in one node.

    One node saves the kernel of SiLU·mul and a launch, but slabs are dense where the tiles of the two differ.
    """
    each = sum(costs.total(cost_together((plan,), False, costs), "hybrid") for plan in pair)
    together = costs.total(cost_together(pair, True, costs), "hybrid")
    return each + costs.gating(pair[0].shape[0]) < together


def _siblings(linears: Collection[str], ends: Collection[str]) -> Iterator[tuple[str, ...]]:
    """Yield the groups of names that differ only in their ends."""
    siblings: dict[str, list[str]] = {}
    for name in linears:
        owner, _, end = name.rpartition(".")
        if end in ends:
            siblings.setdefault(owner, []).append(name)
    return (tuple(names) for names in siblings.values())
