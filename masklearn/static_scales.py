"""Calibrates static scales of linears of type w8a8, block by block: int8 activations in, and int8 activations out.

A scale that holds the largest number rounds small numbers away, and a smaller scale cuts the largest. The scale is chosen
whose error of the linear's output, relative to each token's, is least. Linears that read the same X share its scale.

Some activations fit no single scale. A massive activation lies in one token, and outputs of down projections have a few
channels a hundred times as large as the others. A linear has no static scales if X makes too large an error, and its Y stays
in 16 bits if the rounding of Y does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from masklearn.model.rounded_inputs import StaticRounding, round_static
from masklearn.quant.grid import StaticScales, storable
from masklearn.quant.table import W8A8
from masklearn.stream.blocks import Block, stream_blocks
from masklearn.stream.hidden_states import checkpoints_of
from masklearn.stream.logits import watch_calls
from masklearn.task import Task

if TYPE_CHECKING:
    from masklearn.masks.linear_mask import LinearMask

_WHAT = "static scales"
_WINDOWS = 8
_ROWS = 1024  # tokens whose activations are kept
_STEPS = 2.0 ** (-np.arange(20) / 4)  # of the scale that holds the largest number, down to 1/27
# Largest errors of Y, by norm: a mean over tokens hides a token whose massive activation is cut, and a norm over channels
# hides small channels next to a large one. Y at .06 instead of .03 costs SmolLM2 7 % of perplexity (decision 7).
_MOST_OF_INPUT, _MOST_OF_OUTPUT, _WORST_TOKEN = 0.15, 0.03, 0.5


def find_static_scales(
    task: Task, masks: Mapping[str, LinearMask], linears: Collection[str]
) -> dict[str, StaticScales]:
    """Returns the static scales of linears of type w8a8, without the linears whose X fits no single scale.

    task: its checkpoint has the final weights; masks: applied to them; linears: names to calibrate. It runs the model over
    calibration windows with one block in memory; an interrupted run resumes in its block. Raises MaskLearnError as
    `stream_blocks` does.
    """
    windows = task.text.calibration()[:_WINDOWS]
    key = ",".join(sorted(linears))
    checkpoints = checkpoints_of(task, task.scratch / "static-blocks", _WHAT, key, windows)
    done = len(checkpoints.results)
    for block in stream_blocks(
        task.checkpoint.rounding_inputs(()),
        windows,
        task.recipe.device,
        only=linears,
        store=task.activations,
        checkpoints=checkpoints,
    ):
        for name in block.linears.keys() & masks.keys():
            weight = block.linears[name].weight.data
            weight.masked_fill_(torch.from_numpy(~masks[name].keep()).to(weight.device), 0.0)
        own = {name: linear for name, linear in block.linears.items() if name in linears}
        scales = _calibrate(block, own)
        for name in own:
            of = scales[name].model_dump(exclude_none=True) if name in scales else {}
            checkpoints.add(name, {what: np.array([scale]) for what, scale in of.items()})
        done += len(own)
        task.progress(_WHAT, done, len(linears))
        with StaticRounding(own, scales):
            block.advance()
    return {
        name: StaticScales(**{what: float(scale[0]) for what, scale in of.items()})
        for name, of in checkpoints.results.items()
        if of
    }


@torch.no_grad()
def _calibrate(block: Block, linears: Mapping[str, nn.Linear]) -> dict[str, StaticScales]:
    """Returns the scales of a block's linears."""
    scales: dict[str, StaticScales] = {}
    for names, x in _inputs(block, linears):
        weight = torch.cat([linears[name].weight for name in names])
        scale, error = _least(x, weight)
        if error.tokens > _MOST_OF_INPUT or error.worst > _WORST_TOKEN:
            continue
        for name in names:
            output, error = _least(linears[name](x))
            fits = error.channels <= _MOST_OF_OUTPUT and error.worst <= _WORST_TOKEN
            scales[name] = StaticScales(input=scale, output=output if fits else None)
    return scales


def _inputs(block: Block, linears: Mapping[str, nn.Linear]) -> list[tuple[list[str], Tensor]]:
    """Returns the linears that read the same X, with some tokens of it `[tokens, K]`: at equal distances, and of each window
    the token that holds the largest number."""
    readers: dict[str, list[str]] = {}
    rows: dict[str, list[Tensor]] = {}
    known: set[str] = set()
    last: tuple[str, Tensor] | None = None
    every = max(1, sum(hidden.shape[1] for hidden in block.hidden) // _ROWS)

    def see(name: str, x: Tensor, _: Tensor) -> None:
        nonlocal last
        if name not in known:
            known.add(name)
            first = last[0] if last is not None and last[1] is x else name
            readers.setdefault(first, []).append(name)
            last = first, x
        if name in readers:
            tokens = x.flatten(0, -2)
            massive = tokens.abs().amax(dim=1).argmax()
            rows.setdefault(name, []).append(torch.cat([tokens[::every], tokens[massive, None]]))

    with watch_calls(linears, see):
        block.forward()
    return [(names, torch.cat(rows[first])) for first, names in readers.items()]


class _Error(NamedTuple):
    """Errors by norm, each relative. tokens, channels: root of the mean square over all; worst: of the worst token."""

    tokens: float
    channels: float
    worst: float


def _least(rows: Tensor, weight: Tensor | None = None) -> tuple[float, _Error]:
    """Returns the scale of rows `[tokens, K]` with the least error of rows · weightᵀ, or of the rows, and that error.

    weight: `[N, K]`.
    """
    energy = (rows if weight is None else rows @ weight.T).square().clamp_(min=1e-20)

    def error(scale: float) -> _Error:
        off = round_static(rows, scale) - rows
        off = (off if weight is None else off @ weight.T).square_()
        tokens, channels = (off.sum(dim=dim) / energy.sum(dim=dim) for dim in (1, 0))
        squares = tokens.mean(), channels.mean(), tokens.max()
        return _Error(*(math.sqrt(float(square)) for square in squares))

    top = max(float(rows.abs().max()), 1e-6) / W8A8.highest
    tried = ((float(scale), error(float(scale))) for scale in storable((top * _STEPS).astype(np.float32)))
    return min(tried, key=lambda attempt: attempt[1])
