"""masklearn as a library: hybrid masks of dense and 2:4 tiles for the linears of a Hugging Face checkpoint.

    from pathlib import Path
    from masklearn import Checkpoint, LearnRecipe, Task, covered_linears_of, learn_task

    checkpoint = Checkpoint.open("models/smollm2-135m")
    task = Task(checkpoint, covered_linears_of(checkpoint, (), ()), LearnRecipe(ratio=0.4), Path("scratch"))
    learn_task(task).masks.save("masks.safetensors")

Importing this package is fast: the modules behind a name are imported when the name is first used. Before that,
`masklearn.base.threads` sets the environment variables with which torch's threads share the processor with other programs.
"""

import importlib
from typing import TYPE_CHECKING, Any

from masklearn.base.threads import settle_threads

if TYPE_CHECKING:
    from masklearn.base.errors import PatchCompileError, UsageError
    from masklearn.base.shard import write_shard
    from masklearn.baselines import Baseline, learn_baseline, measure
    from masklearn.learn import Learned, learn_task, repair_and_round
    from masklearn.masks.linear_mask import LinearMask
    from masklearn.masks.maskset import MaskSet
    from masklearn.masks.select import select
    from masklearn.masks.tiles import GROUP, grid_shape, tile_weights
    from masklearn.model.checkpoint import Checkpoint
    from masklearn.model.coverage import covered_linears, covered_linears_of
    from masklearn.model.models import load_model
    from masklearn.model.pretrained import load_tokenizer
    from masklearn.model.store import WeightStore
    from masklearn.quality.perplexity import perplexity
    from masklearn.recipe import LearnRecipe
    from masklearn.task import Task
    from masklearn.text.calibrate import calibration_windows, first_windows

__all__ = [
    "GROUP",
    "Baseline",
    "Checkpoint",
    "LearnRecipe",
    "Learned",
    "LinearMask",
    "MaskSet",
    "PatchCompileError",
    "Task",
    "UsageError",
    "WeightStore",
    "calibration_windows",
    "covered_linears",
    "covered_linears_of",
    "first_windows",
    "grid_shape",
    "learn_baseline",
    "learn_task",
    "load_model",
    "load_tokenizer",
    "measure",
    "perplexity",
    "repair_and_round",
    "select",
    "tile_weights",
    "write_shard",
]

_HOMES = {
    "Baseline": "baselines",
    "Checkpoint": "model.checkpoint",
    "GROUP": "masks.tiles",
    "LearnRecipe": "recipe",
    "Learned": "learn",
    "LinearMask": "masks.linear_mask",
    "MaskSet": "masks.maskset",
    "PatchCompileError": "base.errors",
    "Task": "task",
    "UsageError": "base.errors",
    "WeightStore": "model.store",
    "calibration_windows": "text.calibrate",
    "covered_linears": "model.coverage",
    "covered_linears_of": "model.coverage",
    "first_windows": "text.calibrate",
    "grid_shape": "masks.tiles",
    "learn_baseline": "baselines",
    "learn_task": "learn",
    "load_model": "model.models",
    "load_tokenizer": "model.pretrained",
    "measure": "baselines",
    "perplexity": "quality.perplexity",
    "repair_and_round": "learn",
    "select": "masks.select",
    "tile_weights": "masks.tiles",
    "write_shard": "base.shard",
}  # the module of each name


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    settle_threads()
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
