"""Compares a result with simpler ways to prune. Their results are cached per user.

A baseline is a whole run of mask learning, which takes minutes for a small model. The key of the cache covers the model,
the settings, the texts for calibration and evaluation, and the version of this package.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn import (
    Baseline,
    BaselineRow,
    BesideBaselines,
    LearnRecipe,
    baseline_settings,
    beside_baselines,
    open_text,
    run_baselines,
)
from masklearn.masks.kinds.base import BYTES_DENSE
from masklearn.model.checkpoint import InputSnapshot
from patch_compile.artifacts.record import write_json
from patch_compile.artifacts.workspace import key_of
from patch_compile.cache_folder import cache_folder
from patch_compile.progress import Progress
from patch_compile.sources.base import Weights
from patch_compile.sources.open import beside_key


def with_baselines(
    source: Weights,
    recipe: LearnRecipe,
    result: BaselineRow,
    dense: float,
    asked: Iterable[Baseline],
    windows: NDArray[np.int64],
    scratch: Path,
    progress: Progress,
    check: Callable[[], object],
) -> BesideBaselines:
    """Returns a table of the result, the dense model and all requested or cached baselines.

    result: row of the result; dense: perplexity of the dense model on `windows` `[count, length]`; check: raises an error
    if a file of the model was changed meanwhile.
    """
    cache = cache_folder("baselines")
    texts = InputSnapshot.of(lambda: () if recipe.calib is None else open_text(recipe.calib).files)
    keys: dict[Baseline, str] = {
        name: _key(name, source, recipe, windows) for name in Baseline if name is not Baseline.DENSE
    }
    read = {name: _read(cache / f"{key}.json") for name, key in keys.items()}
    rows = {name: row for name, row in read.items() if row is not None}
    missing = [name for name in asked if name in keys and name not in rows]
    if missing:
        with progress.stage("baselines") as update:
            made = run_baselines(
                source.model, recipe, missing, windows, scratch / "baselines", update, progress.note
            )
        check()
        texts.check()
        for row in made:  # a baseline that does not fit the model has no row
            rows[Baseline(row.name)] = row
            write_json(cache / f"{keys[Baseline(row.name)]}.json", row.model_dump())
    plain = BaselineRow(
        name=Baseline.DENSE,
        ratio=0.0,
        perplexity=dense,
        seconds=0.0,
        deployable=True,
        bytes_per_weight=BYTES_DENSE,
    )
    others = [plain, *(rows[name] for name in keys if name in rows)]
    return beside_baselines(result, others, windows)


def _key(name: Baseline, source: Weights, recipe: LearnRecipe, windows: NDArray[np.int64]) -> str:
    settings = baseline_settings(name, recipe)
    decides: Mapping[str, Any] = settings.model_dump(mode="json", exclude={"calib", "device"})
    text = None if recipe.calib is None else open_text(recipe.calib).fingerprint()
    tokens = hashlib.sha256(windows.astype("<i8").tobytes()).hexdigest()
    version = importlib.metadata.version("patch-compile")
    model = [source.fingerprint, beside_key(source)]  # the tokens of the text depend on the tokenizer
    return key_of(version, str(name), model, decides, text, tokens, list(windows.shape))


def _read(path: Path) -> BaselineRow | None:
    if not path.is_file():
        return None
    try:
        return BaselineRow.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError:  # a damaged file is written again
        return None
