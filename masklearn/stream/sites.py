"""Finds input channels of linears that can be scaled: what makes them takes the division in.

Norms make the inputs of q, k and v, and of gate and up; rows of up make the input of down, and rows of v the input of o.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from masklearn.masks.stored import COLUMNS, ROWS
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.modules import removed_after
from masklearn.model.store import torch_dtype
from masklearn.stream.blocks import Block
from masklearn.stream.logits import watch_calls

_HELD = 1e-6  # of a number: rounding in fp32
_CLOSE = 1e-5  # of the largest output: fp32 results that differ by rounding only


@contextmanager
def parameters_kept(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put the parameters of the modules back on leaving."""
    saved = [(p, p.data.clone()) for module in modules for p in module.parameters(recurse=False)]
    try:
        yield
    finally:
        for parameter, data in saved:
            parameter.data = data


@dataclass(frozen=True, eq=False)
class Site:
    """Input channels that can be scaled.

    maker: makes them, a norm or a linear; rows: of the maker's weight, a row for each d; takers: all linears that read them,
    by name; shift: 1.0 for a norm that multiplies by 1 + w, else 0.0; shared: (value heads, query heads of each, size of a
    head) in front of o, where query heads that share a value head share its d; None if each input channel has its own.
    """

    maker: nn.Module
    rows: slice
    takers: Mapping[str, nn.Linear]
    shift: float = 0.0
    shared: tuple[int, int, int] | None = None

    @property
    def modules(self) -> list[nn.Module]:
        return [self.maker, *self.takers.values()]

    @property
    def inputs(self) -> int:
        """Number of input channels."""
        return next(iter(self.takers.values())).in_features

    def scale(self, exponents: Tensor) -> None:
        """Divide the channels by 2^exponents where they are made, and multiply the columns that read them."""
        weight: Tensor = self.maker.weight.data  # type: ignore[assignment]
        d = torch.exp2(exponents)
        weight[self.rows] = (weight[self.rows] + self.shift) / (
            d if weight.ndim == 1 else d[:, None]
        ) - self.shift
        if isinstance(bias := getattr(self.maker, "bias", None), Tensor):
            bias.data[self.rows] /= d
        for linear in self.takers.values():
            linear.weight.data *= torch.exp2(self.spread(exponents))

    def held(self, checkpoint: Checkpoint, block: Block) -> bool:
        """True if the checkpoint's types hold the parameters as they are now. A norm of 1 + w counts as this sum."""
        return all(
            _is_held(parameter.data, checkpoint.entry(name).dtype, self.shift if parameter.ndim == 1 else 0.0)
            for module in self.modules
            for own, name in block.tensor_names(module).items()
            for parameter in (getattr(module, own),)
        )

    def spread(self, exponents: Tensor) -> Tensor:
        """Returns the exponent of each input channel `[K]`."""
        if self.shared is None:
            return exponents
        heads, queries, size = self.shared
        return exponents.view(heads, 1, size).expand(heads, queries, size).reshape(-1)

    def gather(self, sizes: Tensor) -> Tensor:
        """Returns the largest of the sizes of input channels `[K]` that share a d, for each d."""
        if self.shared is None:
            return sizes
        heads, queries, size = self.shared
        return sizes.view(heads, queries, size).amax(dim=1).reshape(-1)

    def folds(self, block: Block, exponents: Tensor) -> dict[str, NDArray[np.int8]]:
        """Returns the site's part of `MaskSet.folds`."""
        weight: Tensor = self.maker.weight  # type: ignore[assignment]
        rows = torch.zeros(weight.shape[0])
        rows[self.rows] = exponents
        folds = {f"{tensor}{ROWS}": rows for tensor in block.tensor_names(self.maker).values()}
        for linear in self.takers.values():
            folds[f"{block.tensor_names(linear)['weight']}{COLUMNS}"] = self.spread(exponents)
        return {name: fold.numpy().astype(np.int8) for name, fold in folds.items()}


def _is_held(values: Tensor, dtype: str, shift: float) -> bool:
    stored = values.to(torch_dtype(dtype)).float()
    return bool(((stored - values).abs() <= _HELD * (values + shift).abs()).all())


@torch.no_grad()
def sites_of(block: Block) -> list[Site]:
    """Returns the sites of a block. Each was tried: the block's output does not change when its channels are scaled."""
    window = block.hidden[0]
    before, norms, reads = _run(block, window)
    sites: list[Site] = []
    for site in _candidates(block, norms, reads):
        taken = {name for earlier in sites for name in earlier.takers}
        exponents = torch.arange(site.gather(torch.ones(site.inputs)).numel()).remainder(3).sub(1).float()
        if not taken.isdisjoint(site.takers):
            continue
        with parameters_kept(site.modules):
            site.scale(exponents)
            off = (block.run(window) - before).abs().max()
        if off <= _CLOSE * before.abs().max():
            sites.append(site)
    return sites


_Norms = list[tuple[nn.Module, Tensor]]


def _run(block: Block, window: Tensor) -> tuple[Tensor, _Norms, dict[str, Tensor]]:
    """Returns the block's output, its norms with their outputs, and the input of each linear in the order of the calls."""
    norms: _Norms = []
    reads: dict[str, Tensor] = {}
    hooks = (
        module.register_forward_hook(lambda module, _, output: norms.append((module, output)))
        for module in block.module.modules()
        if getattr(getattr(module, "weight", None), "ndim", 0) == 1
    )
    with removed_after(hooks), watch_calls(block.linears, lambda name, x, _: reads.setdefault(name, x)):
        return block.run(window), norms, reads


def _candidates(block: Block, norms: _Norms, reads: Mapping[str, Tensor]) -> Iterator[Site]:
    for norm, output in norms:
        takers = {
            name: block.linears[name]
            for name, x in reads.items()
            if x.data_ptr() == output.data_ptr() and x.shape[-1] == output.shape[-1]
        }
        if takers:
            yield from (Site(norm, slice(None), takers, shift) for shift in (0.0, 1.0))
    order = list(reads)
    for i, name in enumerate(order):
        # The first linear after those that read the same input.
        after = next((one for one in order[i + 1 :] if reads[one].data_ptr() != reads[name].data_ptr()), None)
        if after is not None:
            yield from _of_rows(block.linears[name], {after: block.linears[after]}, _head(block))


def _of_rows(maker: nn.Linear, takers: Mapping[str, nn.Linear], head: int) -> Iterator[Site]:
    """Yield the ways in which rows of a linear, its last rows first, may make the input of another linear.

    head: size of an attention head, 0 if the block has none.
    """
    rows, columns = maker.out_features, next(iter(takers.values())).in_features
    for start in dict.fromkeys((rows - columns, 0)):
        if rows >= columns:
            yield Site(maker, slice(start, start + columns), takers)
    # Rows of v, whose heads are shared; in a linear that makes q, k and v, q is as wide as the input of o.
    values = rows if rows < columns else (rows - columns) // 2
    if head and 0 < values < columns and columns % values == 0 and values % head == 0:
        shared = values // head, columns // values, head
        yield Site(maker, slice(rows - values, rows), takers, shared=shared)


def _head(block: Block) -> int:
    """Returns the size of an attention head, as the attention module of transformers says it; 0 if it does not."""
    return next(
        (size for one in block.module.modules() if isinstance(size := getattr(one, "head_dim", None), int)), 0
    )
