"""Masked model that repair trains: chooses the parameters that train, and saves them as weights of the checkpoint."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor
from torch.nn.utils import parametrize

from masklearn.base.processes import is_main_process
from masklearn.masks.linear_mask import LinearMask
from masklearn.model.architectures import Architecture
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import linear_modules, write_linear
from masklearn.model.naming import checkpoint_name
from masklearn.model.store import WeightStore
from masklearn.quant.grid import Grid, stored_scales
from masklearn.training.model import training_model


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

    keep: 1 for kept positions, 0 for pruned positions, in the weight's shape.
    """

    keep: Tensor

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        # uint8, because torch multiplies by bool 10 times slower on a CPU. Checkpoints need no masks: they are fixed.
        self.register_buffer("keep", keep.to(torch.uint8), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
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


class _Slot(NamedTuple):
    """Place of a parameter in its module. Sharding replaces the parameter, so the place is kept instead of it."""

    owner: nn.Module
    attribute: str

    @property
    def parameter(self) -> nn.Parameter:
        parameter: nn.Parameter = getattr(self.owner, self.attribute)
        return parameter

    def whole(self) -> Tensor:
        """Returns the values, gathered from all processes if they are sharded."""
        values = self.parameter.detach()
        return values.full_tensor() if isinstance(values, DTensor) else values


class Student:
    """Masked model of a checkpoint, with its new weights. Pruned weights stay 0 while it trains.

    The surviving weights of the masked linears, the norms and the biases train. Embeddings do not, nor does the output
    head unless it has a mask, nor an encoder's pooler, which does not influence the last hidden states.

    model: the model, fp32, on the CPU.
    """

    def __init__(self, checkpoint: Checkpoint, masks: Mapping[str, LinearMask]) -> None:
        row = checkpoint.architecture
        self.model = training_model(checkpoint)
        self._checkpoint = checkpoint
        self._vectors = {
            checkpoint_name(checkpoint, name): _slot(self.model, name) for name in vectors(self.model, row)
        }
        linears = linear_modules(self.model, checkpoint)
        self._frozen = self._untrained({id(linears[name].weight) for name in masks})
        modules = dict(self.model.named_modules())  # some of the tail a model may lack
        tail = [modules[part] for part in row.tail if row.encoder and part in modules]
        pooler = {id(module) for part in tail for module in part.modules()}
        self._weights = {
            name: _Slot(cast(Any, linear).parametrizations.weight, "original")
            for name, linear in self._fixed(linears, masks).items()
            if id(linear) not in pooler
        }

    def _fixed(
        self, linears: Mapping[str, nn.Linear], masks: Mapping[str, LinearMask]
    ) -> Mapping[str, nn.Linear]:
        return fix_masks(linears, {name: torch.from_numpy(mask.keep()) for name, mask in masks.items()})

    def parameters(self) -> list[nn.Parameter]:
        return [slot.parameter for slot in (*self._weights.values(), *self._vectors.values())]

    def teacher(self, linear_dtype: torch.dtype) -> Any:
        """Returns the dense model of the checkpoint's directory. It shares the parameters that do not train."""
        return training_model(Checkpoint.open(self._checkpoint.path), self._frozen, linear_dtype)

    def save(self, store: WeightStore) -> None:
        """Put the trained parameters in the store. Every process must call this; only the main process writes."""
        for name, slot in self._weights.items():
            values = self._values(name, slot)
            if is_main_process():
                write_linear(store, self._checkpoint, name, values)
        for name, slot in self._vectors.items():
            values = slot.whole()
            if is_main_process():
                store.put(name, values, self._checkpoint.entry(name))

    def _values(self, name: str, slot: _Slot) -> Tensor:  # noqa: ARG002
        """Returns the weight of a linear; slot: of the parameter that trained in its place."""
        return slot.whole()

    def _untrained(self, masked: set[int]) -> dict[str, nn.Parameter]:
        trained = masked | {id(slot.parameter) for slot in self._vectors.values()}
        new = self._checkpoint.new
        return {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if id(parameter) not in trained
            and (new is None or checkpoint_name(self._checkpoint, name) not in new)
        }


class StudentOnGrids(Student):
    """Masked model whose rounded weights keep their integers. Their scales train, and the norms and biases.

    grids: of the linears whose scales train; `save` replaces them by the trained scales, rounded to storable numbers.
    """

    def __init__(
        self, checkpoint: Checkpoint, masks: Mapping[str, LinearMask], grids: Mapping[str, Grid]
    ) -> None:
        self.grids = dict(grids)
        super().__init__(checkpoint, masks)

    def _fixed(
        self,
        linears: Mapping[str, nn.Linear],
        masks: Mapping[str, LinearMask],  # noqa: ARG002
    ) -> Mapping[str, nn.Linear]:
        return fix_integers(linears, self.grids)

    def _values(self, name: str, slot: _Slot) -> Tensor:
        grid, parts = self.grids[name], cast(nn.Sequential, slot.owner)
        factors = slot.whole().cpu().numpy().reshape(grid.scales.shape)
        self.grids[name] = trained = Grid(grid.type, stored_scales(grid.scales * factors, grid.type))
        integers = cast(FixedIntegers, parts[0]).integers.cpu().numpy()
        return torch.from_numpy(trained.values(integers, np.dtype(np.float32)))


def vectors(model: nn.Module, row: Architecture) -> Iterator[str]:
    """Yield the names of all norm weights and biases that influence the last hidden states."""
    prefix = f"{row.base}." if row.base else ""
    behind = tuple(f"{part}." for part in (row.tail if row.encoder else (row.head,)))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and name.startswith(prefix) and not name.startswith(behind):
            yield name


def _slot(model: nn.Module, name: str) -> _Slot:
    owner, _, attribute = name.rpartition(".")
    return _Slot(model.get_submodule(owner), attribute)
