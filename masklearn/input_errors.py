"""Finds linears of type w8a8 whose inputs are hard to round to int8.

A token has one scale. Where some channels of an input are many times as large as the others, integers of that scale hold
little of the others, and a smoothed input (`masklearn.smooth`) may still have such channels.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch import Tensor

from masklearn.base.processes import made_once
from masklearn.base.shard import Shard, write_shard
from masklearn.masks.record import InputsRecord
from masklearn.masks.weight_types import spell_types
from masklearn.model.rounded_inputs import inputs_rounded
from masklearn.quant.table import BY_INPUTS, INT8, W8A8
from masklearn.stream.blocks import Block, stream_blocks
from masklearn.stream.feed import CheckpointFeed
from masklearn.stream.hidden_states import checkpoints_of
from masklearn.task import Task

_WHAT, _ERROR = "rounding inputs", "error"
_WINDOWS = 2
_FAR = 6.0  # times the median of all linears
_SHOWN = 3  # of the worst linears


@dataclass(frozen=True)
class InputErrors:
    """Change of the block's output by rounding only the inputs of a linear, relative to the output, by linear."""

    errors: Mapping[str, float]

    @property
    def hard(self) -> list[str]:
        """Linears whose inputs cost clearly more to round than inputs usually do, the worst first."""
        usual = median(self.errors.values())
        return [name for name in self._worst() if self.errors[name] > _FAR * usual]

    def record(self, kept: Collection[str]) -> InputsRecord:
        """kept: linears that keep inputs of 16 bits."""
        rounded = [name for name in self._worst() if name not in kept]
        return InputsRecord(
            kept=tuple(name for name in self._worst() if name in kept),
            worst=tuple((name, float(f"{self.errors[name]:.2g}")) for name in rounded[:_SHOWN]),
            usual=float(f"{median(self.errors.values()):.2g}"),
        )

    def _worst(self) -> list[str]:
        return sorted(self.errors, key=lambda name: -self.errors[name])


def keep_hard_inputs(task: Task) -> tuple[Task, InputsRecord | None]:
    """Settle choices by inputs (`BY_INPUTS`): linears of w8a8 keep 16-bit inputs, and so become int8, where inputs are hard
    to round. Returns the task with one type for each linear, and a record if there was a choice."""
    allowed = CheckpointFeed(task).allowed_types
    open_ones = {name for name, kinds in allowed.items() if kinds == BY_INPUTS}
    rounded = [name for name, kinds in allowed.items() if kinds[-1] is W8A8]
    if not open_ones:
        return task, None
    found = input_errors(task, rounded)
    kept = open_ones.intersection(found.hard)
    types = {name: INT8 if name in kept else kinds[-1] for name, kinds in allowed.items()}
    task = task.with_recipe(task.recipe.model_copy(update={"weights": spell_types(types)}))
    record = found.record(kept)
    if kept:
        task.note(f"{len(kept)} linears keep inputs of 16 bits (int8): {', '.join(record.kept)}")
    return task, record


def input_errors(task: Task, linears: Collection[str]) -> InputErrors:
    """Measure the errors of these linears on calibration windows, with one block in memory.

    An interrupted run resumes in its block. Raises MaskLearnError as `stream_blocks` does.
    """
    path = made_once(task.scratch / "input-errors.safetensors", lambda: _find(task, linears))
    shard = Shard.open(path)
    return InputErrors({name: float(shard.read(name)[0]) for name in shard.tensors})


def _find(task: Task, linears: Collection[str]) -> None:
    windows = task.text.calibration()[:_WINDOWS]
    key = ",".join(linears)
    checkpoints = checkpoints_of(task, task.scratch / "input-errors-blocks", _WHAT, key, windows)
    stream = stream_blocks(
        task.checkpoint,
        windows,
        task.recipe.device,
        only=linears,
        store=task.activations,
        checkpoints=checkpoints,
    )
    for block in stream:
        for name, error in _errors(block, [one for one in block.linears if one in linears]).items():
            checkpoints.add(name, {_ERROR: np.array([error], np.float32)})
        task.progress(_WHAT, len(checkpoints.results), len(linears))
    found = {name: arrays[_ERROR] for name, arrays in checkpoints.results.items()}
    specs = dict.fromkeys(found, ("F32", (1,)))
    write_shard(task.scratch / "input-errors.safetensors", specs, lambda name: found[name], {})


@torch.no_grad()
def _errors(block: Block, names: Sequence[str]) -> dict[str, float]:
    """Returns the root mean square over tokens of the relative change. A few tokens, with states a hundred times as large,
    would decide a mean that is not relative."""
    squares: dict[str, list[Tensor]] = {name: [] for name in names}
    for hidden in block.hidden:
        plain = block.run(hidden)
        for name in names:
            with inputs_rounded({name: block.linears[name]}):
                change = block.run(hidden) - plain
            squares[name].append((change.norm(dim=-1) / plain.norm(dim=-1).clamp(min=1e-30)).square())
    return {name: float(torch.cat(one, dim=-1).mean().sqrt()) for name, one in squares.items()}
