"""Trains the rounded weights of a block together, to the output of the dense model's block.

`masklearn.solvers.rounding` rounds each linear for its own outputs. Errors of different linears of a block can cancel each
other, and those of the blocks before can be made up for. So the integers and scales of all rounded linears of a block train
to lessen the mean over all tokens of ‖z − t‖² / ‖t‖². Here z is the block's output for the model that is rounded as far as
this block, and t is the output of the same block of the dense model. Block-wise training of this kind is the first stage of
EfficientQAT (arXiv 2407.11062).

A weight is s · eˡ · round(u), where u is a real number. It begins as the integer of GPTQ plus what the integer leaves of the
weight, at most `_REST` in size. The gradient passes the rounding as if it was not there, and masks stay.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from masklearn.base.threads import in_parallel, total
from masklearn.feed import Replaced
from masklearn.quant.grid import Grid, stored_scales
from masklearn.stream.blocks import Block

# Steps of a window each, for a block of at most _WEIGHTS weights: 10 CPU seconds. Of a larger block the time grows with the
# square root of its weights. At most _PASSES steps take the same window.
_STEPS, _WEIGHTS, _PASSES = 128, 3_500_000, 4
_RATE = 0.001  # of u and l, at the first step; it falls to 0 in a line
_BETAS = (0.9, 0.99)
_REST = 0.49
_JUDGED = 8  # of so many windows one says if training went astray; it trains too, as the solve has fitted it already


def train_rounding(
    block: Block, targets: Sequence[torch.Tensor], found: Mapping[str, Replaced]
) -> dict[str, Replaced]:
    """Train the rounded linears of a block, whose weights are in place, and put the trained weights in place.

    targets: outputs of the dense block for all windows; found: of the linears that train. Returns these with the trained
    weights and scales, or as they are if trained weights lose more.
    """
    windows = range(len(block.hidden))
    judged = windows[::_JUDGED]
    before = _error(block, targets, judged)
    weights = {name: block.linears[name].weight for name in found}
    rounders = [_Rounder(weights[name], one) for name, one in found.items()]
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0)).tolist()
    count = sum(one.values.numel() for one in found.values())
    steps = min(_PASSES * len(windows), math.ceil(_STEPS * math.sqrt(min(1.0, _WEIGHTS / count))))
    for step in range(steps):
        i = order[step % len(order)]
        with torch.enable_grad():
            torch.autograd.backward(_loss(block, targets, i))
        in_parallel(partial(_Rounder.step, rate=_RATE * (1 - step / steps)), rounders)
    result = {name: one.finish(found[name]) for name, one in zip(found, rounders, strict=True)}
    if _error(block, targets, judged) < before:
        return result
    for name, one in found.items():
        weights[name].copy_(one.values)
    return dict(found)


def _loss(block: Block, targets: Sequence[torch.Tensor], window: int) -> torch.Tensor:
    target = targets[window].float()
    lost = (block.run(block.hidden[window]).float() - target).square().sum(dim=-1)
    size = target.square().sum(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    return total(lost / size) / lost.numel()


@torch.no_grad()
def _error(block: Block, targets: Sequence[torch.Tensor], windows: Sequence[int]) -> float:
    return sum(float(_loss(block, targets, i)) for i in windows)


class _Rounder:
    """The numbers u and l of a linear, and their optimiser. All work is on one thread."""

    def __init__(self, weight: torch.Tensor, given: Replaced) -> None:
        assert given.unrounded is not None and given.grid is not None
        unrounded, self._kept = given.unrounded
        self._weight, self._kind = weight.requires_grad_(), given.grid.type
        self._scales = torch.from_numpy(given.grid.scales).to(weight.device).view(len(weight), -1)
        steps = torch.where(self._scales != 0, self._scales.reciprocal(), 0.0)
        integers = (given.values * self._spread(steps)).round_()
        rest = (unrounded * self._spread(steps)).sub_(integers).clamp_(-_REST, _REST)
        self._reals = integers.add_(rest).mul_(self._kept)
        self._logs = torch.zeros_like(self._scales)
        self._adam = torch.optim.Adam([self._reals, self._logs], betas=_BETAS)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        slope = self._weight.grad
        if slope is None:  # an expert that no token of the window reaches
            return
        scales = self._scales * self._logs.exp()
        spans = (len(slope), scales.shape[1], -1)
        self._logs.grad = (slope * self._weight).view(spans).sum(dim=-1)
        self._reals.grad = slope.mul_(self._spread(scales)).mul_(self._kept)
        self._adam.param_groups[0]["lr"] = rate
        self._adam.step()
        self._weight.grad = None
        self._show(self._scales * self._logs.exp())

    @torch.no_grad()
    def finish(self, given: Replaced) -> Replaced:
        """Returns the result, whose weights are in place. Nothing trains afterwards."""
        assert given.grid is not None
        self._weight.requires_grad_(False)
        scales = (self._scales * self._logs.exp()).cpu().numpy().reshape(given.grid.scales.shape)
        grid = Grid(self._kind, stored_scales(scales, self._kind))
        self._show(torch.from_numpy(grid.scales).to(self._weight.device).view(self._scales.shape))
        return replace(given, values=self._weight.detach(), grid=grid)

    def _show(self, scales: torch.Tensor) -> None:
        integers = self._reals.round().clamp_(self._kind.lowest, self._kind.highest)
        self._weight.copy_(integers.mul_(self._spread(scales)).add_(0.0))  # from -0 to +0

    def _spread(self, scales: torch.Tensor) -> torch.Tensor:
        """Returns a number of each weight's span, `[N, K]`."""
        return scales.repeat_interleave(self._weight.shape[1] // scales.shape[1], dim=1)
