"""Trains the scales of rounded weights: their integers, and with these the pruned positions, stay what they are."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize

from masklearn.quant.grid import Grid

__all__ = ["FixedIntegers", "fix_integers"]


class FixedIntegers(nn.Module):
    """Parametrization that makes a weight `[N, K]` of factors of its scales, `[N, spans of a row]`, which are 1 at first.

    Scales of all sizes then train at one learning rate. integers: int8 `[N, K]`; scales: fp32 `[N, spans of a row]`.
    """

    integers: Tensor
    scales: Tensor

    def __init__(self, integers: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.register_buffer("integers", integers.to(torch.int8), persistent=False)
        self.register_buffer("scales", scales, persistent=False)

    def forward(self, factors: Tensor) -> Tensor:
        """Returns the weight, in autocast's type if it is on."""
        kind = factors.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else factors.dtype
        weight: Tensor = _Scaled.apply(factors, self.integers, self.scales, dtype)  # type: ignore[no-untyped-call]
        return weight

    def right_inverse(self, _weight: Tensor) -> Tensor:
        """Returns factors of 1, which torch trains in the place of the weight."""
        return torch.ones_like(self.scales)


class _Scaled(torch.autograd.Function):
    """Integers times scales times factors. It keeps the integers for the backward pass, not their products."""

    @staticmethod
    def forward(ctx: Any, factors: Tensor, integers: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(integers, scales)
        spans = integers.view(*scales.shape, -1).to(factors.dtype)
        return spans.mul_((scales * factors)[..., None]).view(integers.shape).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        integers, scales = ctx.saved_tensors
        products = gradient.to(scales.dtype) * integers
        return products.view(*scales.shape, -1).sum(-1) * scales, None, None, None


def fix_integers(linears: Mapping[str, nn.Linear], grids: Mapping[str, Grid]) -> dict[str, nn.Linear]:
    """Let the scales of linears, whose weights lie on `grids`, train in the place of the weights. Returns the linears."""
    fixed = {name: linears[name] for name in grids}
    for name, linear in fixed.items():
        weight = linear.weight.detach()
        scales = torch.from_numpy(grids[name].scales).reshape(len(weight), -1).to(weight.device)
        steps = torch.where(scales != 0, scales.reciprocal(), 0.0)
        integers = (weight.view(*scales.shape, -1) * steps[..., None]).round_().view(weight.shape)
        parametrize.register_parametrization(linear, "weight", FixedIntegers(integers, scales))
    return fixed
