"""Feeds the linears of a checkpoint to a method while the model runs block by block."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import numpy as np
import torch

from masklearn.checkpoint.architectures import architecture_of
from masklearn.checkpoint.linears import read_linear, write_linear
from masklearn.checkpoint.store import WeightStore
from masklearn.feed import Feed, Fisher, Group
from masklearn.stream.blocks import Block, stream_blocks
from masklearn.stream.fisher import output_fisher
from masklearn.stream.moments import input_moments, output_energy, squared_input_norms
from masklearn.task import Task
from masklearn.traits import Need

__all__ = ["CheckpointFeed"]

Found = TypeVar("Found")
Solve = Callable[[Group], Mapping[str, torch.Tensor]]


class CheckpointFeed(Feed):
    """Feed of a task's model. It keeps one block and the hidden states of all calibration windows in memory.

    Every method raises PatchCompileError as `stream_blocks` does.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.recipe = task.recipe
        self.shapes = task.coverage.linears
        self.note = task.note
        encoder = architecture_of(task.checkpoint).encoder
        self.lacks = {Need.LOSS: "An encoder has no next-token loss."} if encoder else {}

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Reads one weight at a time."""
        for done, name in enumerate(self.shapes, start=1):
            yield name, read_linear(self.task.checkpoint, name)
            self._scored(done)

    def norms(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Run one forward pass in fp32 over all calibration windows."""
        done = 0
        for block in stream_blocks(
            self.task.checkpoint,
            self.task.text.calibration(),
            self.recipe.device,
            only=self.shapes,
            store=self.task.activations,
        ):
            covered = self._covered(block)
            norms = squared_input_norms(covered, block.advance)
            for name, linear in covered.items():
                yield name, linear.weight, norms[name]
            done += len(covered)
            self._scored(done)

    def moments(
        self, see: Callable[[Group], Mapping[str, Found]], windows: int, *, fisher: bool = False
    ) -> Iterator[tuple[str, Found, Fisher | None]]:
        """Run the first `windows` calibration windows forward, and for `fisher` backward too."""
        task, calibration = self.task, self.task.text.calibration()[:windows]
        found: dict[str, Found] = {}

        def score(block: Block) -> None:
            for group in _groups(self._covered(block), block, block.advance):
                found.update(see(group))
            self._scored(len(found))

        gradients: dict[str, Fisher] = {}
        if fisher:
            gradients = output_fisher(task, calibration, forward=score)
        left = [name for name in self.shapes if name not in found]
        # These are all linears without Fisher, and at most the output head with it: `forward` never gets the head.
        stream = stream_blocks(
            task.checkpoint,
            calibration,
            self.recipe.device,
            only=left,
            store=task.activations,
            bf16=task.bf16,
        )
        for block in stream if left else ():
            if set(left) & set(block.linears):
                score(block)
        yield from ((name, one, gradients.get(name)) for name, one in found.items())

    def replace(self, solve: Solve, store: WeightStore) -> None:
        """Solve block after block, as SparseGPT does: moments come from the outputs of the pruned blocks before."""
        task, done = self.task, 0
        for block in stream_blocks(
            task.checkpoint,
            task.text.calibration(),
            self.recipe.device,
            only=list(self.shapes),
            store=task.activations,
            bf16=task.bf16,
        ):
            covered = self._covered(block)
            error = self._replace_block(solve, store, block, covered)
            done += len(covered)
            task.progress(f"solving, output error {error:.3f}", done, len(self.shapes))
            block.advance()

    def _replace_block(
        self, solve: Solve, store: WeightStore, block: Block, linears: Mapping[str, torch.nn.Linear]
    ) -> float:
        """Replace the weights of a block. Returns the mean relative squared output error of its linears."""
        errors = []
        for group in _groups(linears, block, block.forward):
            for name, pruned in solve(group).items():
                weight = group.weights[name]
                energy = output_energy(weight, group.moment)
                errors.append(output_energy(weight - pruned, group.moment) / (energy or 1.0))
                weight.copy_(pruned)
                write_linear(store, self.task.checkpoint, name, pruned)
        return float(np.mean(errors)) if errors else 0.0

    def _covered(self, block: Block) -> dict[str, torch.nn.Linear]:
        return {name: linear for name, linear in block.linears.items() if name in self.shapes}

    def _scored(self, done: int) -> None:
        self.task.progress("scoring", done, len(self.shapes))


def _groups(
    linears: Mapping[str, torch.nn.Linear], block: Block, run: Callable[[], object]
) -> Iterator[Group]:
    """Yield groups of linears with the same input (q, k and v, for example). A group's moment is freed after its use."""
    moments = input_moments(linears, run)
    samples = sum(hidden.shape[0] * hidden.shape[1] for hidden in block.hidden)
    sharing: dict[int, list[str]] = {}
    for name, moment in moments.items():
        sharing.setdefault(id(moment), []).append(name)
    for names in sharing.values():
        weights = {name: linears[name].weight.data for name in names}
        yield Group(weights, moments[names[0]], samples)
        for name in names:
            del moments[name]
