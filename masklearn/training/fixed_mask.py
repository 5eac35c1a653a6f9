"""A weight that trains under a fixed mask: pruned positions are exactly 0 from the first step to the last."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize

__all__ = ["FixedMask", "fix_masks"]


class FixedMask(nn.Module):
    """Parametrization of a weight whose pruned positions are 0 already: it passes the weight on, and masks gradients.

    They stay 0 since their gradient is 0: it enters neither the norm that is clipped nor the optimizer's moments. A
    mask in the forward pass would cost another product of each weight in every step, and change nothing.
    keep: 1 = kept, in the weight's shape.
    """

    keep: Tensor

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        # uint8: torch multiplies by a bool 10 times slower on a CPU. Not saved: masks are fixed.
        self.register_buffer("keep", keep.to(torch.uint8), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, in autocast's type where it is on."""
        kind = weight.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        masked: Tensor = _MaskedGradient.apply(weight, self.keep, dtype)  # type: ignore[no-untyped-call]
        return masked


class _MaskedGradient(torch.autograd.Function):
    """The cast is part of it, so that the gradient is masked in the narrower type, once."""

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
    """Zero what the masks prune and keep it so while the linears train; returns the linears that have a mask.

    keeps: bool `[N, K]` by name of the linear.
    """
    fixed = {name: linears[name] for name in keeps}
    for name, linear in fixed.items():
        keep = keeps[name].to(linear.weight.device)
        with torch.no_grad():
            linear.weight.masked_fill_(~keep, 0.0)
        parametrize.register_parametrization(linear, "weight", FixedMask(keep))
    return fixed
