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
from functools import cache
from typing import Any

from masklearn.base.threads import settle_threads

_HOMES = {
    name: module
    for module, names in {
        "base.errors": "MaskLearnError UsageError",
        "base.shard": "write_shard",
        "baselines": "baseline_settings beside_baselines compare_with_baselines learn_baseline "
        "measure parse_baselines run_baselines with_types_of",
        "choice.select": "select",
        "feed": "Arrays Feed Fisher Group Replaced",
        "importers.base": "IMPORTERS",
        "importers.importing": "import_masks",
        "importers.inference": "nonzero_of",
        "importers.zeros": "Pattern Zeros read_zeros zeros_of",
        "learning": "FoundMasks Learned find_masks learn learn_task round_given",
        "masks.linear_mask": "LinearMask",
        "masks.maskset": "MaskSet",
        "masks.tiles": "GROUP grid_shape tile_weights",
        "methods.base": "method_of",
        "methods.magnitude": "Magnitude",
        "model.checkpoint": "Checkpoint",
        "model.coverage": "covered_linears covered_linears_of",
        "model.models": "load_model",
        "model.pretrained": "load_tokenizer",
        "model.store": "WeightStore",
        "options": "DEFAULT_TILE LEARNING REPAIR BytesPerWeight Count Exclude Include LearnOptions Ratio Tile",
        "permute": "reordered",
        "quality.comparison": "Comparison LogitErrors Predictions compare_models",
        "quality.perplexity": "perplexity",
        "quality.range": "LARGEST OVERFLOWS float16_fit",
        "quality.record": "Baseline BaselineRow BesideBaselines Unbounded",
        "recipe": "LearnRecipe LearnSettings usual_windows",
        "smooth": "folded",
        "solvers.solve": "round_without_inputs",
        "static_scales": "find_static_scales",
        "stream.moments": "second_moment",
        "task": "Task chooser_of_recipe",
        "text.calibrate": "TokenPool first_windows token_pool",
        "text.selftext": "check_writes write_text",
        "text.source": "SourceKind open_text",
        "traits": "FISHER_WINDOWS METHODS Criterion Repair Requires lacking method_names",
    }.items()
    for name in names.split()
}  # the module of each name; `__init__.pyi` has them for type checkers
__all__ = sorted(_HOMES)
_settle_once = cache(settle_threads)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _settle_once()
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
