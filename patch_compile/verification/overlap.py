"""Finds evaluation text that was already seen when the masks were learned, because perplexity on it is misleading.

Texts are compared by runs of 13 tokens, like in the check of GPT-3 (Brown et al. 2020, arXiv 2005.14165, appendix C),
which uses at most 13 words.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from masklearn import SourceKind, TokenPool, open_text, token_pool
from masklearn.model.checkpoint import Checkpoint
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.verify_schema import RUN_TOKENS, OverlapUnknown, SharedRuns, TextOverlap
from patch_compile.errors import PatchCompileError
from patch_compile.recipe import Recipe

Windows = NDArray[np.int64]


def overlap(calib_windows: Windows, eval_windows: Windows, n: int = RUN_TOKENS) -> SharedRuns:
    """Compare token windows `[count, length]`. A run lies within one window.

    The comparison is exact and uses no hashes. Equal runs get equal numbers and different runs different numbers; the number
    of a longer run comes from the pair of shorter runs that it consists of (Karp, Miller, Rosenberg 1972). Windows
    shorter than a run share nothing.
    """
    if min(calib_windows.shape[1], eval_windows.shape[1]) < n or not calib_windows.size:
        runs = len(eval_windows) * max(eval_windows.shape[1] - n + 1, 0)
        return SharedRuns(n=n, runs=runs, shared=0, worst=0 if runs else None, worst_share=0.0)
    known, asked = _numbered(calib_windows, eval_windows, n)
    shared = np.isin(asked, known)
    of_window = shared.mean(axis=1)
    worst = int(of_window.argmax())
    return SharedRuns(
        n=n,
        runs=shared.size,
        shared=int(shared.sum()),
        worst=worst,
        worst_share=float(of_window[worst]),
    )


def check_overlap(
    out: OutFolder,
    eval_windows: Windows,
    eval_text: str | None,
    progress: Callable[[str, int, int], object] | None = None,
) -> TextOverlap | None:
    """Returns the part of the evaluation text that was seen in learning, or the reason why that is not known.

    eval_windows: tokens `[count, length]`; eval_text: the text that they come from (see `open_text`), None for text that
    the model wrote. Calibration text is read again in the same way as for learning, including everything that repair and
    training may have seen. Returns None if the model wrote one of the texts.
    """
    record = out.manifest.text.calib
    if eval_text is None or (record and SourceKind(record.source) is SourceKind.SELF):
        return None
    pool = _text_of_masks(out, progress)
    if isinstance(pool, TextOverlap):
        return pool
    if min(pool.windows.shape[1], eval_windows.shape[1]) < RUN_TOKENS:
        return TextOverlap(unknown=OverlapUnknown.SHORT_WINDOWS)
    same = _fingerprint(Recipe.of_build(out.path).calib) == _fingerprint(eval_text)
    return TextOverlap(same_text=same, shared=overlap(pool.windows, eval_windows))


def _text_of_masks(
    out: OutFolder, progress: Callable[[str, int, int], object] | None
) -> TokenPool | TextOverlap:
    """Returns the windows of calibration and training, read again; or the reason why that is not possible."""
    recipe, record = Recipe.of_build(out.path), out.manifest.text.calib
    if recipe.mask is not None:
        return TextOverlap(unknown=OverlapUnknown.GIVEN_MASKS, about=recipe.mask.name)
    if record is None or recipe.calib is None:
        return TextOverlap(unknown=OverlapUnknown.NO_TEXT)
    try:
        if open_text(recipe.calib).on_hub:
            return TextOverlap(unknown=OverlapUnknown.ON_HUB, about=record.name)
        training = record.tokens // record.length - record.windows
        pool = token_pool(Checkpoint.open(recipe.model), recipe.learning(), progress, training=training)
    except PatchCompileError as error:
        return TextOverlap(unknown=OverlapUnknown.UNREADABLE, about=str(error))
    if pool.record.sha256 != record.sha256:
        return TextOverlap(unknown=OverlapUnknown.CHANGED, about=record.name)
    return pool


def _fingerprint(text: str | None) -> str | None:
    return None if text is None else open_text(text).fingerprint()


def _numbered(calib: Windows, evaluated: Windows, n: int) -> tuple[Windows, Windows]:
    """Returns a number for each run of n tokens `[count, length - n + 1]`, by the same rule for both arrays."""
    length, names = 1, (calib, evaluated)
    while length < n:
        names = _dense(names)
        step = min(length, n - length)
        names = _pairs(names[0], names[1], step)
        length += step
    return names


def _pairs(first: Windows, second: Windows, step: int) -> tuple[Windows, Windows]:
    """Combine each run with the run `step` later into one number, which is different for different pairs."""
    base = int(max(first.max(), second.max())) + 1
    return first[:, :-step] * base + first[:, step:], second[:, :-step] * base + second[:, step:]


def _dense(names: tuple[Windows, Windows]) -> tuple[Windows, Windows]:
    """Renumber from 0 without gaps, so that a pair of numbers fits 64 bits."""
    flat = np.concatenate([names[0].ravel(), names[1].ravel()])
    numbers = np.unique(flat, return_inverse=True)[1].astype(np.int64)
    cut = names[0].size
    return numbers[:cut].reshape(names[0].shape), numbers[cut:].reshape(names[1].shape)
