"""Determines the linears that get a mask, from config.json and the headers of the shards. Reads no weights."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from masklearn.base.errors import MaskLearnError
from masklearn.base.extras import is_installed
from masklearn.masks.name_globs import check_patterns, matches
from masklearn.masks.tiles import GROUP
from masklearn.model.architectures import ARCHITECTURES, Architecture
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.config_shapes import ListedLinear, listed_linears
from masklearn.model.models import meta_model
from masklearn.model.naming import check_tensor, checkpoint_name, linear_name, stored_name, tied_names

_DTYPES = ("F16", "BF16", "F32")
_ROUTED = re.compile(r"\.experts\.\d+\.")
_FUSED = "it is a 3-D tensor of all experts, of which no linear can be masked by name"


@dataclass(frozen=True)
class Coverage:
    """Linears that get a mask, and linears that stay dense.

    linears: checkpoint name to (N, K) of the covered linears, in the order of the model; skipped: checkpoint name to
    reason of the linears that stay dense.
    """

    linears: Mapping[str, tuple[int, int]]
    skipped: Mapping[str, str]

    @property
    def widest(self) -> int:
        """The largest K of the covered linears, 0 if there are none."""
        return max((columns for _, columns in self.linears.values()), default=0)


def covered_linears(
    model_dir: str | Path, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Coverage:
    """Returns the covered linears of a model directory; see `covered_linears_of`."""
    return covered_linears_of(Checkpoint.open(model_dir), include, exclude)


def covered_linears_of(
    checkpoint: Checkpoint, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Coverage:
    """Returns the covered linears of an open checkpoint.

    With `include`, the linears that match any of its patterns are covered, also an output head. Without it, all linears
    of the blocks are covered, but no output head, pooler, routed expert or gate of experts. `exclude` wins over
    `include`. Both take patterns of `masklearn.masks.name_globs` for checkpoint names. Linears with a weight that is tied to
    another module, with a K that is not a multiple of 4, before the blocks, or outside the text model are never covered.
    Embeddings are not linears.

    Without torch, and without weights if the table of architectures has the linears, they come from `listed_linears`, and
    shapes are not compared with config.json.

    Raises MaskLearnError for an architecture that is not covered, a pattern that matches no linear, and a weight that is
    missing, fused with others, or of another shape or dtype than the model's.
    """
    architecture = checkpoint.architecture
    linears = _linears(checkpoint)
    check_patterns(include, list(linears), "`include`")
    check_patterns(exclude, list(linears), "`exclude`")
    covered: dict[str, tuple[int, int]] = {}
    skipped: dict[str, str] = {}
    for name, linear in linears.items():
        shape, reason = linear.shape, _reason(name, linear, architecture, include, exclude)
        if not reason and 0 in shape and f"{name}.weight" in checkpoint:
            reason = "its weight is empty"
        if reason:
            if _ROUTED.search(linear.module) and f"{name}.weight" not in checkpoint:
                _check_weight(checkpoint, name, shape)
            skipped[name] = reason
        else:
            _check_weight(checkpoint, name, shape)
            covered[name] = shape
    skipped |= dict.fromkeys(_fused_experts(checkpoint, architecture), _FUSED)
    if not covered:
        why = "; ".join(f"{count} linears: {reason}" for reason, count in Counter(skipped.values()).items())
        raise MaskLearnError("No linear is covered", why, "Give other include and exclude patterns.")
    return Coverage(covered, skipped)


def _linears(checkpoint: Checkpoint) -> dict[str, ListedLinear]:
    if not is_installed("torch") or (checkpoint.described and checkpoint.architecture.linears):
        return listed_linears(checkpoint)
    import torch

    model = meta_model(checkpoint, buffers=False)
    names = tied_names(model)
    _check_names(checkpoint, names)
    return {
        linear_name(checkpoint, name): ListedLinear(
            name, (module.out_features, module.in_features), len(names[f"{name}.weight"]) > 1
        )
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def _check_names(checkpoint: Checkpoint, names: Mapping[str, Sequence[str]]) -> None:
    """Raise MaskLearnError if a checkpoint of a type without a row names a tensor otherwise than its module."""
    if checkpoint.config["model_type"] in ARCHITECTURES or not checkpoint.names():
        return
    for name, tied in names.items():
        if stored_name(checkpoint, [name, *tied]) not in checkpoint:
            raise MaskLearnError(
                f"{checkpoint.path} has no {name}",
                f"The type {checkpoint.config['model_type']} has no row in the table of architectures, which could give its "
                "tensors other names than its modules.",
                "Load it with transformers 5 and call save_pretrained. If the names stay, use a model of another type.",
            )


def _fused_experts(checkpoint: Checkpoint, architecture: Architecture) -> list[str]:
    """Returns the names of the modules of the blocks that hold the weights of experts in 3-D tensors."""
    if architecture.linears or not is_installed("torch"):
        return []
    weights = (
        n
        for n, p in meta_model(checkpoint, buffers=False).named_parameters()
        if p.ndim == 3 and _within(n, architecture.blocks)
    )
    owners = dict.fromkeys(name.rpartition(".")[0] for name in weights if ".experts." in name)
    return [checkpoint_name(checkpoint, owner) for owner in owners]


def _reason(
    name: str,
    linear: ListedLinear,
    architecture: Architecture,
    include: Sequence[str],
    exclude: Sequence[str],
) -> str:
    in_blocks = _within(linear.module, architecture.blocks)
    if linear.tied:
        return "its weight is tied to the embedding"
    if not in_blocks and not any(_within(linear.module, part) for part in architecture.tail):
        return "it lies outside the blocks of the text model"
    if matches(name, *exclude):
        return "excluded"
    if include and not matches(name, *include):
        return "not included"
    if not include and not in_blocks:
        part = "output head" if linear.module == architecture.head else "layer after the last block"
        return f"the {part} is left dense unless included by name"
    if not include and linear.module.endswith(architecture.gates):
        return "it routes tokens to experts, and is left dense unless included by name"
    if not include and _ROUTED.search(linear.module):
        return (
            "it is a routed expert, which few tokens run through, and is left dense unless included by name"
        )
    if linear.shape[1] % GROUP:
        return f"K = {linear.shape[1]} is not a multiple of {GROUP}"
    return ""


def _within(module: str, part: str) -> bool:
    return f"{module}.".startswith(f"{part}.")


def _check_weight(checkpoint: Checkpoint, name: str, shape: tuple[int, int]) -> None:
    weight = f"{name}.weight"
    experts = re.sub(r"\.experts\.\d+\..*", ".experts.gate_up_proj", weight)
    if weight not in checkpoint and experts in checkpoint:
        raise MaskLearnError(
            f"The experts of {checkpoint.path} are fused",
            f"{experts} is a 3-D tensor of all experts, of which no linear can be masked by name.",
            "Load it with transformers 5 and call save_pretrained, which writes a tensor for each expert.",
        )
    check_tensor(checkpoint, weight, shape)
    dtype = checkpoint.entry(weight).dtype
    if dtype not in _DTYPES:
        raise MaskLearnError(
            f"{weight} has dtype {dtype} in {checkpoint.path}",
            f"Masks are learned on {', '.join(_DTYPES)} weights.",
            "Use a checkpoint whose weights have one of these types.",
        )
