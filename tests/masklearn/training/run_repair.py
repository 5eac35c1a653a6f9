"""One process of a run that tests start: repairs under masks of `magnitude_masks` and leaves the trained tensors.

accelerate shards (FSDP) only on accelerators. "fsdp" lets it shard on a CPU, which torch can do.
"""

import sys
from pathlib import Path

from masklearn.base.processes import leave
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from masklearn.model.store import WeightStore
from masklearn.recipe import LearnRecipe
from masklearn.task import Task
from masklearn.training import loop
from masklearn.training.repair import repair
from tests.fp32 import compute_in_fp32
from tests.masklearn.methods.gradient.run_learn import shard_on_cpu
from tests.masklearn.training.masks import magnitude_masks


def show(what: str, done: int, total: int) -> None:
    if what.startswith("repair"):
        print(done, flush=True)


if __name__ == "__main__":
    model, settings, scratch, kind = sys.argv[1:]
    compute_in_fp32()
    loop.CHECKPOINT_EVERY = 4
    if kind == "fsdp":
        shard_on_cpu()
    checkpoint, store = Checkpoint.open(model), WeightStore(Path(scratch) / "weights")
    recipe = LearnRecipe.model_validate_json(settings)
    task = Task(checkpoint, covered_linears_of(checkpoint), recipe, Path(scratch), show, lambda line: None)
    repair(task.of(checkpoint.with_weights(store)), magnitude_masks(checkpoint), store)
    leave(Path(scratch))
