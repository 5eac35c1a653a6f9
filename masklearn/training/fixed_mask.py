"""Trains weights under fixed masks: pruned positions are exactly 0 from the first step to the last.

The weights of a quantised linear train through their rounding: the forward pass takes the numbers of the grid that are
nearest to them, and the backward pass leaves the rounding out (straight-through estimator, arXiv 1308.3432).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize

from masklearn.weights.grid import Grid

__all__ = ["FixedMask", "RoundedMask", "fix_masks"]


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
        return self._masked(weight, weight)

    def _masked(self, weight: Tensor, values: Tensor) -> Tensor:
        """Returns `values`, in autocast's type if it is on, whose masked gradient is that of the weight."""
        kind = weight.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        masked: Tensor = _MaskedGradient.apply(weight, values.detach(), self.keep, dtype)  # type: ignore[no-untyped-call]
        return masked


class RoundedMask(FixedMask):
    """`FixedMask` of a quantised linear, which returns the numbers of its grid that are nearest to the weight.

    The scales do not train. grid: the linear's grid.
    """

    scales: Tensor

    def __init__(self, keep: Tensor, grid: Grid) -> None:
        super().__init__(keep)
        columns = keep.shape[1]
        self._type, self._span = grid.type, grid.type.span or columns
        scales = torch.from_numpy(grid.scales).view(len(keep), -1, 1)
        self.register_buffer("scales", scales, persistent=False)

    @torch.no_grad()
    def rounded(self, weight: Tensor) -> Tensor:
        """Returns the nearest numbers of the grid `[N, K]`, fp32."""
        spans = weight.detach().view(len(weight), -1, self._span)
        found = torch.where(self.scales > 0, spans / self.scales, 0.0)
        found = found.round_().clamp_(self._type.lowest, self._type.highest)
        return found.mul_(self.scales).view_as(weight)

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the rounded weight, in autocast's type if it is on."""
        return self._masked(weight, self.rounded(weight))


class _MaskedGradient(torch.autograd.Function):
    """Returns the values in the place of the weight, and masks their gradient, which becomes the weight's.

    The cast is in here so that the mask applies to the narrower type.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, values: Tensor, keep: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.dtype = weight.dtype
        return values.to(dtype) if values.dtype != dtype else values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (keep,) = ctx.saved_tensors
        return (gradient * keep.to(gradient.dtype)).to(ctx.dtype), None, None, None


def fix_masks(
    linears: Mapping[str, nn.Linear], keeps: Mapping[str, Tensor], grids: Mapping[str, Grid] | None = None
) -> dict[str, nn.Linear]:
    """Set pruned weights to 0 and keep them 0 while the linears train. Returns the linears that have a mask.

    keeps: masks by name of the linear, bool `[N, K]`, True for kept weights; grids: grids of the quantised linears.
    """
    fixed = {name: linears[name] for name in keeps}
    for name, linear in fixed.items():
        keep = keeps[name].to(linear.weight.device)
        with torch.no_grad():
            linear.weight.masked_fill_(~keep, 0.0)
        grid = (grids or {}).get(name)
        mask = FixedMask(keep) if grid is None else RoundedMask(keep, grid)
        parametrize.register_parametrization(linear, "weight", mask)
    return fixed
