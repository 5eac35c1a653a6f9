"""The optimizers, from torch: AdamW, or Adafactor where its two moments a weight do not fit."""

from typing import Any

import torch
from torch import Tensor

from masklearn.training.schedule import Schedule

__all__ = ["optimizer_of"]

_SMALLEST = 1e-3  # Adafactor takes a smaller RMS of a parameter for this one


def optimizer_of(groups: list[dict[str, Any]], schedule: Schedule) -> torch.optim.Optimizer:
    """The schedule's optimizer, without weight decay, over an objective's parameter groups."""
    if schedule.optimizer == "adamw":
        # fused: one pass over the five tensors of a weight instead of a dozen, which on a CPU is 5 times faster.
        return torch.optim.AdamW(
            groups, lr=schedule.learning_rate, betas=schedule.betas, weight_decay=0.0, fused=True
        )
    split = [
        {**group, "params": [parameter], "lr": _relative(group.get("lr", schedule.learning_rate), parameter)}
        for group in groups
        for parameter in group["params"]
    ]
    return torch.optim.Adafactor(split, lr=schedule.learning_rate, weight_decay=0.0)


def _relative(learning_rate: float, parameter: Tensor) -> float:
    """The rate at which Adafactor's first step moves a parameter as far as Adam's.

    Its steps are relative to the parameter's RMS (arXiv 1804.04235, algorithm 5).
    """
    rms = float(parameter.detach().float().square().mean().sqrt())
    return learning_rate / max(rms, _SMALLEST)
