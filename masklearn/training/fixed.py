"""Trains weights whose pruned positions stay 0, and the scales of integers that stay as they are."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize

from masklearn.quant.grid import Grid

__all__ = ["FixedIntegers", "FixedMask", "fix_integers", "fix_masks"]


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
