"""Wanda (arXiv 2306.11695): a weight counts |w|·‖x‖₂, with x its input feature over the calibration text."""

from collections.abc import Iterator

from masklearn.methods.candidate import Candidate, register
from masklearn.methods.scores.importance import candidate_from_importance
from masklearn.recipe import Method
from masklearn.stream.blocks import stream_blocks
from masklearn.stream.moments import squared_input_norms
from masklearn.task import Task

__all__ = ["learn_wanda"]


@register(Method.WANDA)
def learn_wanda(task: Task) -> Iterator[tuple[str, Candidate]]:
    """Yield a candidate per linear, block by block, one block in memory.

    The norms are those of the dense model: which tiles become 2:4 is known only when every block is scored, and
    inputs that come out of wholly 2:4 blocks are further from the final model's than the dense ones. The sum of
    (|w|·‖x‖)² is the squared output error if features were uncorrelated, so it adds up over a tile.
    """
    linears, done = task.coverage.linears, 0
    for block in stream_blocks(
        task.checkpoint,
        task.text.calibration(),
        task.recipe.device,
        only=linears,
        store=task.activations,
    ):
        covered = {name: linear for name, linear in block.linears.items() if name in linears}
        norms = squared_input_norms(covered, block.advance)
        for name, linear in covered.items():
            yield name, candidate_from_importance(linear.weight.square() * norms[name], task.recipe.tile)
        done += len(covered)
        task.progress("scoring", done, len(linears))
