"""Finds the feed-forward parts of a model's blocks: linears that make hidden channels, and the one that takes them in."""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from masklearn.model.architectures import architecture_of
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.models import meta_model
from masklearn.model.naming import linear_name

__all__ = ["Mlp", "mlps_of"]


@dataclass(frozen=True)
class Mlp:
    """Feed-forward part `down(act(gate(x)) * up(x))` or `down(act(up(x)))` with an elementwise act.

    up: checkpoint names of the linears whose rows are the hidden channels: gate and up, one fused linear (`[2 I, H]`: the
    rows of gate, then those of up), or up alone; down: the linear whose columns they are, `[H, I]`; channels: I.
    """

    up: tuple[str, ...]
    down: str
    channels: int

    @property
    def linears(self) -> tuple[str, ...]:
        """Checkpoint names of all linears of the part."""
        return (*self.up, self.down)


def mlps_of(checkpoint: Checkpoint, covered: Collection[str]) -> list[Mlp]:
    """Returns the feed-forward parts whose linears are all covered, in the order of the model.

    Each expert of a mixture is one part.
    """
    row, model = architecture_of(checkpoint), meta_model(checkpoint)
    up, down = row.mlp
    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    found = []
    for name, module in linears.items():
        owner = name.removesuffix(down)
        ups = [f"{owner}{one}" for one in up]
        inside = name.startswith(f"{row.blocks}.") and name.endswith(f".{down}")
        if not inside or not all(one in linears for one in ups):
            continue
        mlp = Mlp(
            tuple(linear_name(checkpoint, one) for one in ups),
            linear_name(checkpoint, name),
            module.in_features,
        )
        if all(linear in covered for linear in mlp.linears):
            found.append(mlp)
    return found
