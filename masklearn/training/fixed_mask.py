"""Trains weights under fixed masks: pruned positions are exactly 0 from the first step to the last."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize

__all__ = ["FixedMask", "fix_masks"]


class FixedMask(nn.Module):
    """Parametrization that returns the weight as it is and masks its gradient.

    Pruned positions of the weight must be 0 already, and stay 0 because their gradient is 0. That zero changes neither the
    norm that is clipped nor the optimizer's moments. A mask in the forward pass would give the same result at the cost of
    another product per weight and step.

    keep: 1 for kept positions, 0 for pruned ones, in the weight's shape.
    """

    keep: Tensor

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        # uint8, because torch multiplies by bool 10 times slower on a CPU. Checkpoints need no masks: they are fixed.
        self.register_buffer("keep", keep.to(torch.uint8), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the weight, in autocast's type if it is on."""
        kind = weight.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        masked: Tensor = _MaskedGradient.apply(weight, self.keep, dtype)  # type: ignore[no-untyped-call]
        return masked


class _MaskedGradient(torch.autograd.Function):
    """Casts the weight and masks its gradient. The cast is in here so that the mask applies to the narrower type."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, keep: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.dtype = weight.dtype
        return weight.to(dtype) if weight.dtype != dtype else weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return (gradient * keep.to(gradient.dtype)).to(ctx.dtype), None, None


def fix_masks(linears: Mapping[str, nn.Linear], keeps: Mapping[str, Tensor]) -> dict[str, nn.Linear]:
    """Set pruned weights to 0 and keep them 0 while the linears train. Returns the linears that have a mask.

    keeps: masks by name of the linear, bool `[N, K]`, True for kept weights. The result has the order of `linears`: the
    order of the parameters decides how the norm of their gradient is rounded.
    """
    fixed = {name: linear for name, linear in linears.items() if name in keeps}
    for name, linear in fixed.items():
        keep = keeps[name].to(linear.weight.device)
        with torch.no_grad():
            linear.weight.masked_fill_(~keep, 0.0)
        parametrize.register_parametrization(linear, "weight", FixedMask(keep))
    return fixed
