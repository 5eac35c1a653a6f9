"""Feeds the linears of a checkpoint to a method while the model runs block by block."""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.base.device import usable_device
from masklearn.feed import Arrays, Feed, Fisher, Group, Replaced
from masklearn.masks.kinds.base import TileKind
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import read_linear, write_linear
from masklearn.model.store import WeightStore
from masklearn.quant.table import W8A8, with_rounded_inputs
from masklearn.stream.backward import stream_blocks_back
from masklearn.stream.blocks import Block, stream_blocks
from masklearn.stream.hidden_states import PassCheckpoints, checkpoints_of
from masklearn.stream.logits import watch_gradients
from masklearn.stream.moments import (
    input_moments,
    output_energy,
    squared_input_norms,
    watch_rounding,
    weighted_moments,
)
from masklearn.task import Task
from masklearn.traits import Requires

_FISHER = "fisher"


def _output_fisher(
    task: Task,
    windows: NDArray[np.int64],
    checkpoints: tuple[PassCheckpoints, PassCheckpoints],
) -> dict[str, NDArray[np.float64]]:
    """Returns E[g²] `[N]` of each covered linear by name.

    g is the gradient of the summed next-token loss with respect to an output, and the mean is over tokens. To second
    order, output errors δy add ½·Σ E[g²]·δy² to the loss.

    checkpoints: see `stream_blocks_back`, whose MaskLearnErrors are raised.
    """
    covered, back = task.coverage.linears, checkpoints[1]
    for block in stream_blocks_back(
        task.checkpoint,
        windows,
        task.recipe.device,
        store=task.activations,
        bf16=task.bf16,
        checkpoints=checkpoints,
    ):
        linears = {name: linear for name, linear in block.linears.items() if name in covered}
        squares = {
            name: torch.zeros(linear.out_features, dtype=torch.float64) for name, linear in linears.items()
        }

        def add(name: str, gradient: torch.Tensor, squares: dict[str, torch.Tensor] = squares) -> None:
            squares[name] += gradient.double().flatten(0, -2).square().sum(dim=0).cpu()

        with watch_gradients(linears, add):
            for i, window in enumerate(windows):
                block.backward(i, window)
        for name, total in squares.items():
            back.add(name, {_FISHER: (total / windows.size).numpy()})
        task.progress("sensitivity of the loss", len(back.results) + len(squares), len(covered))
    return {name: arrays[_FISHER] for name, arrays in back.results.items()}


Solve = Callable[[Group], Mapping[str, Replaced]]
_NORMS = "norms"


class CheckpointFeed(Feed):
    """Feed of a task's model. It keeps one block and the hidden states of all calibration windows in memory.

    Each pass over the model is saved after every block, in the task's scratch folder. If it is interrupted, the same call
    resumes it at the block in which it stopped, and gives the same bytes. Every method raises MaskLearnError as
    `stream_blocks` does.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.recipe = task.recipe
        self.shapes = task.coverage.linears
        self.note = task.note
        self.given = task.checkpoint.grids
        encoder = task.checkpoint.architecture.encoder
        self.why_not = {Requires.LOSS: "An encoder has no next-token loss."} if encoder else {}

    @cached_property
    def kinds(self) -> Mapping[str, tuple[TileKind, ...]]:
        """Kinds that the tiles of each linear may have besides dense. Raises MaskLearnError as `allowed_kinds` does."""
        return super().kinds if self.task.kinds is None else self.task.kinds

    def with_weights(self, weights: str) -> "CheckpointFeed":
        """Returns the feed of a task with another recipe, which keeps text that was read."""
        recipe = self.recipe.model_copy(update={"weights": weights})
        return CheckpointFeed(self.task.changed(recipe=recipe))

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        for done, name in enumerate(self.shapes, start=1):
            yield name, read_linear(self.task.checkpoint, name)
            self._scored(done)

    def norms(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Run one forward pass in fp32 over all calibration windows."""
        task, device = self.task, usable_device(self.recipe.device)
        windows = task.text.calibration()
        checkpoints = checkpoints_of(task, task.scratch / "scores", "scoring", _NORMS, windows)
        for name, arrays in list(checkpoints.results.items()):
            weight = read_linear(task.checkpoint, name)
            yield name, weight.to(device), torch.from_numpy(arrays[_NORMS]).to(device)
        for block in self._blocks(task.checkpoint, windows, checkpoints, bf16=False):
            covered = self._covered(block)
            norms = squared_input_norms(covered, block.advance)
            for name, linear in covered.items():
                checkpoints.add(name, {_NORMS: norms[name].cpu().numpy()})
                yield name, linear.weight, norms[name]
            self._scored(len(checkpoints.results) + len(covered))

    def moments(
        self, see: Callable[[Group], Mapping[str, Arrays]], windows: int, key: str, *, fisher: int = 0
    ) -> Iterator[tuple[str, Arrays, Fisher | None]]:
        """Run the first `windows` calibration windows forward, and the first `fisher` of them forward and backward."""
        task, calibration = self.task, self.task.text.calibration()[:windows]
        open_inputs = [name for name, kinds in self.allowed_types.items() if len(kinds) > 1 and W8A8 in kinds]
        checkpoints = checkpoints_of(task, task.scratch / "scores", "scoring", key, calibration)
        for block in self._blocks(task.checkpoint, calibration, checkpoints, bf16=task.bf16):
            covered = self._covered(block)
            for group in _groups(covered, block, block.advance, errors_of=open_inputs, checks=True):
                for name, arrays in see(group).items():
                    checkpoints.add(name, arrays)
            self._scored(len(checkpoints.results) + len(covered))
        gradients: Mapping[str, Fisher] = {}
        if fisher:
            folder, what = task.scratch / "sensitivity", "sensitivity of the loss"
            calibration = calibration[:fisher]
            ahead = checkpoints_of(task, folder / "inputs", what, key, calibration, keep_states=True)
            back = checkpoints_of(task, folder, what, key, calibration)
            gradients = _output_fisher(task, calibration, (ahead, back))
        yield from ((name, one, gradients.get(name)) for name, one in checkpoints.results.items())

    def replace(self, solve: Solve, store: WeightStore, key: str, what: str = "solving") -> dict[str, Arrays]:
        """Solve block after block, as SparseGPT does: moments come from the outputs of the pruned blocks before. Linears of
        type w8a8 get rounded inputs."""
        task, windows = self.task, self.task.text.calibration()
        checkpoint = task.checkpoint.rounding_inputs(with_rounded_inputs(self.types))
        checkpoints = checkpoints_of(task, solving_folder(store), what, key, windows)
        if not all(store.has_own(f"{name}.weight") for name in checkpoints.results):
            checkpoints.forget()
        for block in self._blocks(checkpoint, windows, checkpoints, bf16=task.bf16):
            covered = self._covered(block)
            error = self._replace_block(solve, store, checkpoints, block, covered)
            done = len(checkpoints.results) + len(covered)
            task.progress(f"{what}, output error {error:.3f}", done, len(self.shapes))
            block.advance()
        return checkpoints.results

    def put(self, store: WeightStore, name: str, weight: torch.Tensor) -> None:
        write_linear(store, self.task.checkpoint, name, weight)

    def _replace_block(
        self,
        solve: Solve,
        store: WeightStore,
        checkpoints: PassCheckpoints,
        block: Block,
        linears: Mapping[str, torch.nn.Linear],
    ) -> float:
        """Replace the weights of a block. Returns the mean relative squared output error of its linears."""
        errors = []
        for group in _groups(linears, block, block.forward, self.types, self.task.activations):
            for name, replaced in solve(group).items():
                weight = group.weights[name]
                energy = output_energy(weight, group.moment)
                errors.append(output_energy(weight - replaced.values, group.moment) / (energy or 1.0))
                weight.copy_(replaced.values)
                checkpoints.add(name, replaced.stored)
                self.put(store, name, replaced.values)
        return float(np.mean(errors)) if errors else 0.0

    def _blocks(
        self, checkpoint: Checkpoint, windows: NDArray[np.int64], checkpoints: PassCheckpoints, *, bf16: bool
    ) -> Iterator[Block]:
        return stream_blocks(
            checkpoint,
            windows,
            self.recipe.device,
            only=self.shapes,
            store=self.task.activations,
            bf16=bf16,
            checkpoints=checkpoints,
        )

    def _covered(self, block: Block) -> dict[str, torch.nn.Linear]:
        return {name: linear for name, linear in block.linears.items() if name in self.shapes}

    def _scored(self, done: int) -> None:
        self.task.progress("scoring", done, len(self.shapes))


def solving_folder(store: WeightStore) -> Path:
    """Returns the folder, next to the store's, of the checkpoints with which `CheckpointFeed.replace` fills the store."""
    return store.folder.with_name(f"{store.folder.name}-blocks")


def _groups(
    linears: Mapping[str, torch.nn.Linear],
    block: Block,
    run: Callable[[], object],
    rounded: Collection[str] = (),
    store: Path | None = None,
    errors_of: Collection[str] = (),
    *,
    checks: bool = False,
) -> Iterator[Group]:
    """Yield groups of linears with the same input (q, k and v, for example). A group's moments are freed after its use.

    rounded: linears whose groups get weighted moments; store: see `weighted_moments`; errors_of: linears whose groups get
    the errors of rounding their inputs; checks: True to keep every second window, of two or more, for `Group.check`.
    """
    with watch_rounding({name: linears[name] for name in linears if name in errors_of}) as errors:
        moments = input_moments(linears, run, lambda: checks and block.window % 2 == 1)
    seen = [hidden.shape[0] * hidden.shape[1] for hidden in block.hidden]
    samples = sum(seen[::2] if checks else seen)
    sharing: dict[int, list[str]] = {}
    for name, moment in moments.items():
        sharing.setdefault(id(moment), []).append(name)
    weighs = [names for names in sharing.values() if not block.is_head and not set(rounded).isdisjoint(names)]
    weighted = weighted_moments(linears, block, moments, weighs, store) if weighs else {}
    for names in sharing.values():
        weights = {name: linears[name].weight.data for name in names}
        known = next((errors[name] * (samples / sum(seen)) for name in names if name in errors), None)
        moment = moments[names[0]]
        for name in names:
            del moments[name]
        yield Group(
            weights, moment.matrix, moment.rows, samples, moment.check, weighted.pop(names[0], None), known
        )
