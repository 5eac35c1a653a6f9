"""One process of a run that tests start. It leaves its candidates, also the masks of `learn`, or repaired weights.

accelerate shards (FSDP) only on accelerators. "fsdp" lets it shard on a CPU, which torch can do.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from masklearn.base.processes import leave, process_rank
from masklearn.learning import learn
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.methods import method_of
from masklearn.model.store import WeightStore
from masklearn.recipe import LearnRecipe
from masklearn.stream.feed import CheckpointFeed
from masklearn.task import Task
from masklearn.training import loop
from masklearn.training.repair import repair
from tests.fp32 import compute_in_fp32
from tests.masklearn.conftest import task_of
from tests.masklearn.mask_sets import magnitude_masks


def shard_on_cpu() -> None:
    from accelerate import state
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    plain = state.AcceleratorState.__init__

    def init(self: Any, *arguments: Any, **settings: Any) -> None:
        first = not self.initialized
        plain(self, *arguments, **settings)
        if first:
            self.distributed_type = state.PartialState._shared_state["distributed_type"] = (
                DistributedType.FSDP
            )
            self.fsdp_plugin = FullyShardedDataParallelPlugin(
                fsdp_version=2,
                auto_wrap_policy="transformer_based_wrap",
                reshard_after_forward=True,
                state_dict_type="SHARDED_STATE_DICT",
            )

    state.AcceleratorState.__init__ = init


def show(what: str, done: int, _total: int) -> None:
    if what.startswith(("learning masks", "repair")):
        print(done, flush=True)


def learn_candidates(task: Task, out: Path) -> None:
    found = {}
    for name, candidates in method_of(task.recipe.method).candidates(CheckpointFeed(task)):
        candidate = candidates[TWO_FOUR]
        found |= {f"{name}.pattern": candidate.pattern, f"{name}.score": candidate.score}
    out.mkdir(exist_ok=True)
    np.savez(out / f"{process_rank()}.npz", **found)


def learn_masks(task: Task, out: Path) -> None:
    learn_candidates(task, out)
    masks = learn(task.checkpoint.path, task.recipe, task.scratch).masks
    masks.save(out / f"{process_rank()}.safetensors")


def repair_weights(task: Task, out: Path) -> None:
    store = WeightStore(out)
    repair(task.of(task.checkpoint.with_weights(store)), magnitude_masks(task.checkpoint), store)


if __name__ == "__main__":
    what, model, settings, scratch, out, kind = sys.argv[1:]
    compute_in_fp32()
    loop.CHECKPOINT_EVERY = 3
    if kind == "fsdp":
        shard_on_cpu()
    recipe = LearnRecipe.model_validate_json(settings)
    task = task_of(Path(model), recipe, Path(scratch), progress=show, note=lambda _: None)
    {"candidates": learn_candidates, "masks": learn_masks, "repair": repair_weights}[what](task, Path(out))
    leave(Path(scratch))
