"""One process of a run that tests start. It saves its candidates, and the masks of `learn` when asked.

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
from masklearn.recipe import LearnRecipe
from masklearn.stream.feed import CheckpointFeed
from masklearn.training import loop
from tests.fp32 import compute_in_fp32
from tests.masklearn.tasks import task_of


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
    if what.startswith("learning masks"):
        print(done, flush=True)


if __name__ == "__main__":
    model, settings, scratch, out, kind, masks = sys.argv[1:]
    compute_in_fp32()
    loop.CHECKPOINT_EVERY = 3
    if kind == "fsdp":
        shard_on_cpu()
    recipe = LearnRecipe.model_validate_json(settings)
    task = task_of(Path(model), recipe, Path(scratch), progress=show, note=lambda _: None)
    found = {}
    for name, candidates in method_of(recipe.method).candidates(CheckpointFeed(task)):
        candidate = candidates[TWO_FOUR]
        found |= {f"{name}.pattern": candidate.pattern, f"{name}.score": candidate.score}
    np.savez(f"{out}{process_rank()}.npz", **found)
    if masks == "masks":
        learn(model, recipe, Path(scratch)).masks.save(f"{out}{process_rank()}.safetensors")
    leave(Path(scratch))
