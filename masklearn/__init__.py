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
    from masklearn.base.errors import MaskLearnError as MaskLearnError
    from masklearn.base.errors import UsageError as UsageError
    from masklearn.base.shard import write_shard as write_shard
    from masklearn.baselines import baseline_settings as baseline_settings
    from masklearn.baselines import beside_baselines as beside_baselines
    from masklearn.baselines import compare_with_baselines as compare_with_baselines
    from masklearn.baselines import learn_baseline as learn_baseline
    from masklearn.baselines import measure as measure
    from masklearn.baselines import parse_baselines as parse_baselines
    from masklearn.baselines import run_baselines as run_baselines
    from masklearn.baselines import which_apply as which_apply
    from masklearn.baselines import with_types_of as with_types_of
    from masklearn.feed import Arrays as Arrays
    from masklearn.feed import Feed as Feed
    from masklearn.feed import Fisher as Fisher
    from masklearn.feed import Group as Group
    from masklearn.feed import Replaced as Replaced
    from masklearn.importers.base import IMPORTERS as IMPORTERS
    from masklearn.importers.importing import import_masks as import_masks
    from masklearn.learning import FoundMasks as FoundMasks
    from masklearn.learning import Learned as Learned
    from masklearn.learning import find_masks as find_masks
    from masklearn.learning import learn as learn
    from masklearn.learning import learn_task as learn_task
    from masklearn.learning import repair_and_round as repair_and_round
    from masklearn.learning import round_given as round_given
    from masklearn.masks.linear_mask import LinearMask as LinearMask
    from masklearn.masks.maskset import MaskSet as MaskSet
    from masklearn.masks.select import select as select
    from masklearn.masks.tiles import GROUP as GROUP
    from masklearn.masks.tiles import grid_shape as grid_shape
    from masklearn.masks.tiles import tile_weights as tile_weights
    from masklearn.methods.base import method_of as method_of
    from masklearn.methods.magnitude import Magnitude as Magnitude
    from masklearn.model.checkpoint import Checkpoint as Checkpoint
    from masklearn.model.coverage import covered_linears as covered_linears
    from masklearn.model.coverage import covered_linears_of as covered_linears_of
    from masklearn.model.models import load_model as load_model
    from masklearn.model.pretrained import load_tokenizer as load_tokenizer
    from masklearn.model.store import WeightStore as WeightStore
    from masklearn.options import LEARNING as LEARNING
    from masklearn.options import REPAIR as REPAIR
    from masklearn.options import BytesPerWeight as BytesPerWeight
    from masklearn.options import Count as Count
    from masklearn.options import Exclude as Exclude
    from masklearn.options import Include as Include
    from masklearn.options import LearnOptions as LearnOptions
    from masklearn.options import Ratio as Ratio
    from masklearn.options import Tile as Tile
    from masklearn.permute import reordered as reordered
    from masklearn.quality.comparison import Comparison as Comparison
    from masklearn.quality.comparison import LogitErrors as LogitErrors
    from masklearn.quality.comparison import Predictions as Predictions
    from masklearn.quality.comparison import compare_models as compare_models
    from masklearn.quality.perplexity import perplexity as perplexity
    from masklearn.quality.range import LARGEST as LARGEST
    from masklearn.quality.range import OVERFLOWS as OVERFLOWS
    from masklearn.quality.range import float16_fit as float16_fit
    from masklearn.quality.record import Baseline as Baseline
    from masklearn.quality.record import BaselineRow as BaselineRow
    from masklearn.quality.record import BesideBaselines as BesideBaselines
    from masklearn.quality.record import Unbounded as Unbounded
    from masklearn.quality.sensitivity import sensitivity as sensitivity
    from masklearn.recipe import LearnRecipe as LearnRecipe
    from masklearn.recipe import LearnSettings as LearnSettings
    from masklearn.solvers.solve import round_without_inputs as round_without_inputs
    from masklearn.stream.moments import second_moment as second_moment
    from masklearn.task import Task as Task
    from masklearn.task import by_ratio as by_ratio
    from masklearn.text.calibrate import TokenPool as TokenPool
    from masklearn.text.calibrate import calibration_windows as calibration_windows
    from masklearn.text.calibrate import first_windows as first_windows
    from masklearn.text.calibrate import token_pool as token_pool
    from masklearn.text.selftext import write_text as write_text
    from masklearn.text.source import SourceKind as SourceKind
    from masklearn.text.source import open_text as open_text
    from masklearn.traits import IMPORTANCE as IMPORTANCE
    from masklearn.traits import METHODS as METHODS
    from masklearn.traits import Criterion as Criterion
    from masklearn.traits import Repair as Repair
    from masklearn.traits import Requires as Requires
    from masklearn.traits import lacking as lacking
    from masklearn.traits import method_names as method_names

_HOMES = {
    name: module
    for module, names in {
        "base.errors": "MaskLearnError UsageError",
        "base.shard": "write_shard",
        "baselines": "baseline_settings beside_baselines compare_with_baselines learn_baseline "
        "measure parse_baselines run_baselines which_apply with_types_of",
        "feed": "Arrays Feed Fisher Group Replaced",
        "importers.base": "IMPORTERS",
        "importers.importing": "import_masks",
        "learning": "FoundMasks Learned find_masks learn learn_task repair_and_round round_given",
        "masks.linear_mask": "LinearMask",
        "masks.maskset": "MaskSet",
        "masks.select": "select",
        "masks.tiles": "GROUP grid_shape tile_weights",
        "methods.base": "method_of",
        "methods.magnitude": "Magnitude",
        "model.checkpoint": "Checkpoint",
        "model.coverage": "covered_linears covered_linears_of",
        "model.models": "load_model",
        "model.pretrained": "load_tokenizer",
        "model.store": "WeightStore",
        "options": "LEARNING REPAIR BytesPerWeight Count Exclude Include LearnOptions Ratio Tile",
        "permute": "reordered",
        "quality.comparison": "Comparison LogitErrors Predictions compare_models",
        "quality.perplexity": "perplexity",
        "quality.range": "LARGEST OVERFLOWS float16_fit",
        "quality.record": "Baseline BaselineRow BesideBaselines Unbounded",
        "quality.sensitivity": "sensitivity",
        "recipe": "LearnRecipe LearnSettings",
        "solvers.solve": "round_without_inputs",
        "stream.moments": "second_moment",
        "task": "Task by_ratio",
        "text.calibrate": "TokenPool calibration_windows first_windows token_pool",
        "text.selftext": "write_text",
        "text.source": "SourceKind open_text",
        "traits": "IMPORTANCE METHODS Criterion Repair Requires lacking method_names",
    }.items()
    for name in names.split()
}  # the module of each name
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    settle_threads()
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
