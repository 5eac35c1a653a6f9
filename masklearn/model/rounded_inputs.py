"""Rounds activations of linears of type w8a8 to int8, in the models of torch, as the kernels do.

Each token has its own scale, which is found when the token comes, so that nothing is calibrated. `quantise` is the
arithmetic; kernels and the ONNX function do the same, bit for bit. A checkpoint says which linears have such inputs
(`Checkpoint.rounded_inputs`), and every model that is made of it gets hooks in front of these linears.

`round_by_scales` rounds by scales that are known before, as QuantizeLinear and DequantizeLinear of ONNX do.
"""

import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from masklearn.quant.grid import StaticScales
from masklearn.quant.table import W8A8

_HIGHEST = (1 << (W8A8.input_bits - 1)) - 1
_LEAST = 2.0**-100  # tokens whose largest value is smaller are zeros: 127 / max would not be finite


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns integers -127 … 127 as fp32 `[..., K]`, and the scales fp32 `[..., 1]`, of tokens x `[..., K]`.

    A token with infinity or NaN has the scale NaN and the integers 0. Every operation rounds once to fp32.
    """
    x = x.float()
    largest = x.abs().amax(dim=-1, keepdim=True) if x.shape[-1] else x.new_zeros((*x.shape[:-1], 1))
    holds, finite = largest >= _LEAST, largest.isfinite()
    # A tensor, because torch multiplies by the inverse where one operand is a number.
    highest = torch.full_like(largest, _HIGHEST)
    inverse = torch.where(holds & finite, highest / largest, 0.0)
    scale = torch.where(holds, largest / highest, 0.0)
    products = torch.where(finite, x * inverse, 0.0)
    return products.round_().clamp_(-_HIGHEST, _HIGHEST), torch.where(finite, scale, torch.nan)


class _Rounded(torch.autograd.Function):
    """Rounds to the numbers that the integers stand for. The gradient passes as if nothing was rounded."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        integers, scale = quantise(x)
        return integers.mul_(scale).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return gradient


def round_inputs(x: Tensor) -> Tensor:
    """Returns the inputs `[..., K]` rounded to int8 numbers times their token's scale, in the type of x."""
    rounded: Tensor = _Rounded.apply(x)  # type: ignore[no-untyped-call]
    return rounded


class _Rounding:
    """Hook in front of linears. Linears that share their input one after the other also share the rounded input."""

    def __init__(self) -> None:
        self._seen: tuple[weakref.ref[Tensor], tuple[int, bool], Tensor] | None = None

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        if x.is_inference():  # such a tensor does not count its changes
            return round_inputs(x), *inputs[1:]
        state = x._version, torch.is_grad_enabled()
        if self._seen is None or self._seen[0]() is not x or self._seen[1] != state:
            self._seen = weakref.ref(x), state, round_inputs(x)
        return self._seen[2], *inputs[1:]


def round_inputs_of(linears: Mapping[str, nn.Module]) -> list[Any]:
    """Round the inputs of these linears of a model at every call from now on. Returns the handles of the hooks."""
    hook = _Rounding()
    return [linear.register_forward_pre_hook(hook) for linear in linears.values()]


def round_static(x: Tensor, scale: float) -> Tensor:
    """Returns x rounded to the nearest of -128 … 127 times the scale, in the type of x. Gradients do not pass."""
    # A tensor, because torch multiplies by the inverse where one operand is a number.
    by = torch.tensor(scale, device=x.device)
    return (x.float() / by).round_().clamp_(W8A8.lowest, W8A8.highest).mul_(by).to(x.dtype)


def round_by_scales(linears: Mapping[str, nn.Module], scales: Mapping[str, StaticScales]) -> list[Any]:
    """Round X and Y of linears to int8 by static scales at every call from now on. Returns the handles of the hooks.

    scales: of some of the linears.
    """
    handles: list[Any] = []
    for name, own in scales.items():
        handles.append(linears[name].register_forward_pre_hook(partial(_before, own.input)))
        if own.output is not None:
            handles.append(linears[name].register_forward_hook(partial(_after, own.output)))
    return handles


def _before(scale: float, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return round_static(inputs[0], scale), *inputs[1:]


def _after(scale: float, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return round_static(output, scale)
