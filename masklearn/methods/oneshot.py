"""`oneshot` and `sparsegpt`: tiles ranked by what turning them 2:4 costs, by SparseGPT on the dense model's inputs.

Both solve patterns and weights again for the final tiles (`solve`), `oneshot` by ALPS and `sparsegpt` by SparseGPT; they
differ in the criterion they take by default as well, and `oneshot` repairs. The scores come from the dense model's
activations: which tiles become 2:4 is known only when every block is scored, and a wholly 2:4 model's activations are
further from the final model's.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masklearn.checkpoint.architectures import architecture_of
from masklearn.checkpoint.linears import read_linear
from masklearn.masks.patterns import patterns_from_scores
from masklearn.masks.tiles import GROUP, sum_columns, sum_rows, tile_sums, tile_weights
from masklearn.methods.candidate import Candidate, register
from masklearn.recipe import Criterion, Method
from masklearn.solvers import obs
from masklearn.stream.blocks import Block, stream_blocks
from masklearn.stream.fisher import output_fisher
from masklearn.stream.moments import input_moments, output_energy
from masklearn.task import Task

__all__ = ["learn_oneshot", "learn_sparsegpt"]

_SCORE_WINDOWS = 16  # of 512 tokens, as many as the Fisher information was estimated from when it was chosen
_TOKENS_PER_INPUT = 2  # at least so many tokens per input feature, or the Hessian is far from full rank


@register(Method.ONESHOT)
def learn_oneshot(task: Task) -> Iterator[tuple[str, Candidate]]:
    """Yield a candidate per linear, ranked by the loss its error costs unless the recipe names a criterion.

    An encoder has no next-token loss to rank by: its tiles are ranked by relative output error.
    """
    criterion = task.recipe.criterion
    if criterion is None and architecture_of(task.checkpoint).encoder:
        task.note("tiles are ranked by relative output error: an encoder has no next-token loss")
        criterion = Criterion.RELATIVE
    return _learn(task, criterion or Criterion.FISHER)


@register(Method.SPARSEGPT)
def learn_sparsegpt(task: Task) -> Iterator[tuple[str, Candidate]]:
    """Yield a candidate per linear, ranked by relative output error unless the recipe names a criterion."""
    return _learn(task, task.recipe.criterion or Criterion.RELATIVE)


def _learn(task: Task, criterion: Criterion) -> Iterator[tuple[str, Candidate]]:
    if criterion in (Criterion.MAGNITUDE, Criterion.RANDOM):
        yield from _without_text(task, criterion)
        return
    windows = _score_windows(task)
    pruned: dict[str, _Pruned] = {}

    def score(block: Block) -> None:
        pruned.update(_prune_block(task, block, criterion))
        task.progress("scoring", len(pruned), len(task.coverage.linears))

    sensitivity: dict[str, NDArray[np.float64]] = {}
    if criterion is Criterion.FISHER:
        sensitivity = output_fisher(task, windows, forward=score)
    left = [name for name in task.coverage.linears if name not in pruned]
    # Without Fisher all of them; with it an output head that is covered, which no block passes on to.
    stream = stream_blocks(
        task.checkpoint, windows, task.recipe.device, only=left, store=task.activations, bf16=task.bf16
    )
    for block in stream if left else ():
        if set(left) & set(block.linears):
            score(block)
    for name, linear in pruned.items():
        errors: NDArray[np.floating] = linear.errors
        if name in sensitivity:
            errors = errors * _row_weights(sensitivity[name], by_output=task.recipe.permute)
        yield name, Candidate(linear.pattern, sum_rows(errors, task.recipe.tile).astype(np.float32))


def _row_weights(fisher: NDArray[np.float64], *, by_output: bool) -> NDArray[np.float64]:
    """What an error in each row costs, `[N, 1]`, from E[g²] of every output.

    The rows of a tile have nothing in common in a checkpoint's own order, and one scalar per linear ranks tiles as well
    as one per output does (SmolLM2-135M, ratio .35: perplexity 58.0 and 58.1). Where like channels lie together they
    have, and most of what that brings would be lost.
    """
    return fisher[:, None] if by_output else np.full((len(fisher), 1), fisher.mean())


def _score_windows(task: Task) -> NDArray[np.int64]:
    widest = max(shape[1] for shape in task.coverage.linears.values())
    wanted = max(_SCORE_WINDOWS, -(-_TOKENS_PER_INPUT * widest // task.recipe.length))
    return task.text.calibration()[:wanted]


@dataclass(frozen=True, eq=False)
class _Pruned:
    """A linear that was pruned wholly. pattern: uint8 codes `[N, K/4]`; errors: fp32 `[N, grid columns]`, what a row of
    a tile costs: its squared output error per token, or that as a share of the linear's output energy.
    """

    pattern: NDArray[np.uint8]
    errors: NDArray[np.float32]


def _prune_block(task: Task, block: Block, criterion: Criterion) -> dict[str, _Pruned]:
    """Advance the block, prune each of its linears wholly, and keep patterns and errors but no weights."""
    linears = {name: linear for name, linear in block.linears.items() if name in task.coverage.linears}
    moments = input_moments(linears, block.advance)
    tokens = sum(hidden.shape[0] * hidden.shape[1] for hidden in block.hidden)
    factors = obs.inverse_factors(moments, task.recipe.damping, task.note)
    pruned = {}
    for name, linear in linears.items():
        weight = linear.weight.detach()
        solved = obs.solve_linear(weight, factors[name])
        scale = output_energy(weight, moments[name]) if criterion is Criterion.RELATIVE else float(tokens)
        errors = sum_columns(solved.loss.cpu().numpy(), task.recipe.tile) / (scale or 1.0)
        pruned[name] = _Pruned(solved.patterns.cpu().numpy(), errors.astype(np.float32))
    return pruned


def _without_text(task: Task, criterion: Criterion) -> Iterator[tuple[str, Candidate]]:
    """Reference rankings: mean |w| of a tile in units of the linear's mean, or a seeded draw."""
    rng = np.random.default_rng(task.recipe.seed)
    for done, name in enumerate(task.coverage.linears, start=1):
        weight = read_linear(task.checkpoint, name).abs()
        areas = tile_weights(task.coverage.linears[name], task.recipe.tile)
        score: NDArray[np.floating]
        if criterion is Criterion.RANDOM:
            score = rng.random(areas.shape) * areas
        else:
            groups = weight.view(weight.shape[0], -1, GROUP).sum(dim=2)
            score = tile_sums(groups.numpy(), task.recipe.tile) / (float(weight.mean()) or 1.0)
        yield name, Candidate(patterns_from_scores(weight).numpy(), score.astype(np.float32))
        task.progress("scoring", done, len(task.coverage.linears))
