"""The work of a whole model besides its covered linears, from config.json and the headers of the shards."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace

from masklearn.masks.name_globs import depth_of
from masklearn.model.architectures import ARCHITECTURES
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.config_shapes import sizes_of, text_settings
from masklearn.model.coverage import Coverage
from patch_compile.packing.fusion import FUSIONS
from patch_compile.planning.lowering import LinearPlan, uncovered
from patch_compile.planning.products import InputGroup, compiled_groups, fused_groups, groups_by_name
from patch_compile.planning.roofline.rest import Model

_EXPERT = re.compile(r"\.experts\.(\d+)\.")


@dataclass(frozen=True)
class Outline:
    """Outline of a model. model: its sizes; others: linears of the blocks that are not covered, which stay dense.

    groups: linears of one input, which the dense model computes as one GEMM, because TensorRT merges them itself.
    nodes: the groups whose linears share a PatchLinear node if they are packed.
    """

    model: Model
    others: tuple[LinearPlan, ...] = ()
    groups: tuple[InputGroup, ...] = ()
    nodes: tuple[InputGroup, ...] = ()

    def nodes_of(self, plans: Collection[LinearPlan]) -> tuple[InputGroup, ...]:
        """Returns the nodes that plans leave: a gate and its up that are `apart` share none."""
        apart = {plan.name for plan in plans if plan.apart}
        return tuple(node for node in self.nodes if apart.isdisjoint(node.linears))

    def compiled(self, plans: Collection[LinearPlan]) -> Outline:
        """Returns the outline with the nodes that the graph allowed."""
        return replace(self, nodes=compiled_groups(plans))


def outline_of(checkpoint: Checkpoint, coverage: Coverage, fuse: Collection[str] | None = None) -> Outline:
    """Returns the outline of a checkpoint. It reads no weights.

    fuse: the fusions by which linears share nodes; None means all.
    """
    config = text_settings(checkpoint.path)
    skipped = [name for name in coverage.skipped if depth_of(name) is not None]
    shapes = {name: checkpoint.shape(f"{name}.weight") for name in skipped if f"{name}.weight" in checkpoint}
    chosen = getattr(config, "num_experts_per_tok", None)
    others = [
        uncovered(name, (n, k)) for name, (n, k, *more) in shapes.items() if not more and _runs(name, chosen)
    ]
    others += [
        plan for name in skipped for plan in _fused_experts(checkpoint, name, config.hidden_size, chosen)
    ]
    head_covered = any(depth_of(name) is None for name in coverage.linears)
    every = {**coverage.linears, **{plan.name: plan.shape for plan in others}}
    architecture = checkpoint.architecture
    groups = groups_by_name(every, architecture)
    sizes = asdict(sizes_of(config)) | ({"vocabulary": 0} if head_covered else {})
    return Outline(
        Model(name=checkpoint.path.resolve().name, encoder=architecture.encoder, **sizes),
        tuple(others),
        groups,
        fused_groups(groups, FUSIONS if fuse is None else fuse, every),
    )


def _runs(name: str, chosen: int | None) -> bool:
    """Returns True for a linear that the plan counts: any but a routed expert whose number is `chosen` or more.

    chosen: the number of experts that a token chooses, None without experts. The first `chosen` experts of a block stand for
    the experts of every token. The tokens of a prompt may choose others too; the bytes of these are left out.
    """
    expert = _EXPERT.search(name)
    return expert is None or chosen is None or int(expert[1]) < chosen


def _fused_experts(
    checkpoint: Checkpoint, name: str, hidden: int, chosen: int | None
) -> Iterator[LinearPlan]:
    """Yield the linears of the experts that a token chooses, of a module that holds all experts in 3-D tensors."""
    for end in ("gate_up_proj", "up_proj", "down_proj"):
        if f"{name}.{end}" in checkpoint:
            experts, a, b = checkpoint.shape(f"{name}.{end}")
            wide = b if a == hidden else a
            shape = (hidden, wide) if end == "down_proj" else (wide, hidden)
            for i in range(min(experts, chosen or experts)):
                yield uncovered(f"{name}.{i}.{end}", shape)


def outline_of_llama(
    model: Model, fuse: Collection[str] | None = None
) -> tuple[dict[str, tuple[int, int]], Outline]:
    """Returns the linears `[N, K]` and the outline of a decoder with the blocks of LLaMA. It needs no checkpoint."""
    h, wide = model.hidden, model.intermediate
    block = {
        "self_attn.q_proj": (model.q, h),
        "self_attn.k_proj": (model.kv, h),
        "self_attn.v_proj": (model.kv, h),
        "self_attn.o_proj": (h, model.q),
        "mlp.gate_proj": (wide, h),
        "mlp.up_proj": (wide, h),
        "mlp.down_proj": (h, wide),
    }
    linears = {
        f"model.layers.{i}.{name}": shape for i in range(model.layers) for name, shape in block.items()
    }
    groups = groups_by_name(linears, ARCHITECTURES["llama"])
    return linears, Outline(
        model, (), groups, fused_groups(groups, FUSIONS if fuse is None else fuse, linears)
    )
