"""Masked model that repair trains: chooses the parameters that train, and saves them as weights of the checkpoint."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from masklearn.base.processes import is_main_process
from masklearn.masks.linear_mask import LinearMask
from masklearn.model.architectures import Architecture, architecture_of
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import linear_modules, write_linear
from masklearn.model.naming import checkpoint_name
from masklearn.model.store import WeightStore
from masklearn.quant.grid import Grid, stored_scales
from masklearn.training.fixed import FixedIntegers, fix_integers, fix_masks
from masklearn.training.model import training_model

__all__ = ["Student", "StudentOnGrids", "vectors"]


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
        row = architecture_of(checkpoint)
        self.model = training_model(checkpoint)
        self._checkpoint = checkpoint
        self._vectors = {
            checkpoint_name(checkpoint, name): _slot(self.model, name) for name in vectors(self.model, row)
        }
        linears = linear_modules(self.model, checkpoint)
        self._frozen = self._untrained({id(linears[name].weight) for name in masks})
        pooler = _modules_within(self.model, row.tail) if row.encoder else set()
        self._weights = {
            name: _Slot(_parametrization(linear), "original")
            for name, linear in self._fixed(linears, masks).items()
            if id(linear) not in pooler
        }

    def _fixed(
        self, linears: Mapping[str, nn.Linear], masks: Mapping[str, LinearMask]
    ) -> Mapping[str, nn.Linear]:
        """Parametrize the linears that train, and return them."""
        return fix_masks(linears, {name: torch.from_numpy(mask.keep()) for name, mask in masks.items()})

    def parameters(self) -> list[nn.Parameter]:
        """Returns the parameters that train."""
        return [slot.parameter for slot in (*self._weights.values(), *self._vectors.values())]

    def teacher(self, linear_dtype: torch.dtype) -> Any:
        """Returns the dense model of the checkpoint's directory. It shares the parameters that do not train."""
        return training_model(Checkpoint.open(self._checkpoint.path), self._frozen, linear_dtype)

    def save(self, store: WeightStore) -> None:
        """Put the trained parameters in the store. Every process must call this; only the main one writes."""
        for name, slot in self._weights.items():
            values = self._values(name, slot)
            if is_main_process():
                write_linear(store, self._checkpoint, name, values)
        for name, slot in self._vectors.items():
            values = slot.whole()
            if is_main_process():
                store.put(name, values, self._checkpoint.entry(name))

    def _values(self, name: str, slot: _Slot) -> Tensor:  # noqa: ARG002
        """Returns the weight of a linear; slot: of what trained in its place."""
        return slot.whole()

    def _untrained(self, masked: set[int]) -> dict[str, nn.Parameter]:
        """Returns the parameters by module name that do not train and have the dense model's values."""
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

    grids: of the linears whose scales train; `save` puts the trained ones in their place, rounded to what is stored.
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


def _modules_within(model: nn.Module, parts: Iterable[str]) -> set[int]:
    """Returns the ids of all modules in these parts, some of which a model may lack."""
    modules = dict(model.named_modules())
    return {id(module) for part in parts if part in modules for module in modules[part].modules()}


def _slot(model: nn.Module, name: str) -> _Slot:
    owner, _, attribute = name.rpartition(".")
    return _Slot(model.get_submodule(owner), attribute)


def _parametrization(linear: nn.Linear) -> nn.Module:
    parametrizations: Any = linear.parametrizations
    chain: nn.Module = parametrizations.weight
    return chain
