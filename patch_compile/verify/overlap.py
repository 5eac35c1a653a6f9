"""Finds evaluation text that was already seen when the masks were learned, because perplexity on it is misleading.

Texts are compared by runs of 13 tokens, like in the check of GPT-3 (Brown et al. 2020, arXiv 2005.14165, appendix C),
which uses at most 13 words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.text import SourceKind, open_text
from masklearn.text.calibrate import TokenPool, token_pool
from patch_compile.errors import PatchCompileError
from patch_compile.out.folder import OutFolder
from patch_compile.recipe import Recipe

__all__ = ["Overlap", "check_overlap", "overlap", "words"]

Windows = NDArray[np.int64]
_RUN = 13
_PHRASES = 0.01  # independent texts share up to this part of a window
_NOT_KNOWN = "whether the masks were learned on the evaluation text is not known"


@dataclass(frozen=True)
class Overlap:
    """Runs of `n` tokens that are both in evaluation windows and in calibration windows.

    runs: number of runs in the evaluation windows; shared: number of them that are in a calibration window; worst: index
    of the evaluation window that shares most, None without runs; worst_share: its share, 0 … 1.
    """

    n: int
    runs: int
    shared: int
    worst: int | None
    worst_share: float

    @property
    def share(self) -> float:
        """Share of the runs, 0 … 1."""
        return self.shared / self.runs if self.runs else 0.0


def overlap(calib_windows: Windows, eval_windows: Windows, n: int = _RUN) -> Overlap:
    """Compare token windows `[count, length]`. A run lies within one window.

    The comparison is exact and uses no hashes. Equal runs get equal numbers and different runs different ones; the number
    of a longer run comes from the pair of shorter runs that it consists of (Karp, Miller, Rosenberg 1972). Windows
    shorter than a run share nothing.
    """
    if min(calib_windows.shape[1], eval_windows.shape[1]) < n or not calib_windows.size:
        runs = len(eval_windows) * max(eval_windows.shape[1] - n + 1, 0)
        return Overlap(n, runs, 0, 0 if runs else None, 0.0)
    known, asked = _numbered(calib_windows, eval_windows, n)
    shared = np.isin(asked, known)
    of_window = shared.mean(axis=1)
    worst = int(of_window.argmax())
    return Overlap(n, shared.size, int(shared.sum()), worst, float(of_window[worst]))


def words(found: Overlap) -> str:
    """Returns the finding in one sentence."""
    if not found.shared:
        return f"no {found.n} tokens in a row of the evaluation text are in the text that the masks were learned on"
    so = (
        "perplexity on it looks better than on new text"
        if found.worst_share > _PHRASES
        else "phrases, no more"
    )
    return (
        f"{_percent(found.share)} of the evaluation text was seen when the masks were learned, by runs of {found.n} tokens; "
        f"of its window {found.worst} {_percent(found.worst_share)}: {so}"
    )


def check_overlap(
    out: OutFolder,
    eval_windows: Windows,
    eval_text: str | None,
    progress: Callable[[str, int, int], object] | None = None,
) -> str:
    """Returns a sentence about evaluation text that was seen in learning, or about the reason why that is not known.

    eval_windows: tokens `[count, length]`; eval_text: the text that they come from (see `open_text`), None for text that
    the model wrote. Calibration text is read again in the same way as for learning, including everything that repair and
    training may have seen. Returns an empty string if the model wrote one of the texts, or if they share nothing.
    """
    record = out.manifest.text.calib
    if eval_text is None or (record and SourceKind(record.source) is SourceKind.SELF):
        return ""
    pool, why = _text_of_masks(out, progress)
    if pool is None:
        return f"{_NOT_KNOWN}: {why}"
    if min(pool.windows.shape[1], eval_windows.shape[1]) < _RUN:
        return f"{_NOT_KNOWN}: windows are shorter than {_RUN} tokens"
    found = overlap(pool.windows, eval_windows)
    told = words(found) if found.shared else ""
    if _fingerprint(Recipe.of_build(out.path).calib) != _fingerprint(eval_text):
        return told
    told = told or f"no {found.n} tokens in a row of its windows are in those that were drawn for them"
    return f"the evaluation text is the one that the masks were learned on, by its sha256; {told}"


def _text_of_masks(
    out: OutFolder, progress: Callable[[str, int, int], object] | None
) -> tuple[TokenPool | None, str]:
    """Returns the windows of calibration and training, read again; or None and the reason why that is not possible."""
    recipe, record = Recipe.of_build(out.path), out.manifest.text.calib
    if recipe.mask is not None:
        return None, f"the masks come from {recipe.mask.name}"
    if record is None or recipe.calib is None:
        return None, "the build names no text"
    try:
        if open_text(recipe.calib).on_hub:
            return None, f"the masks were learned on {record.name}, which is not on this machine"
        training = record.tokens // record.length - record.windows
        pool = token_pool(Checkpoint.open(recipe.model), recipe.learning(), progress, training=training)
    except PatchCompileError as error:
        return None, str(error)
    if pool.record.sha256 != record.sha256:
        return None, f"{record.name} has changed since the masks were learned, by its sha256"
    return pool, ""


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
    """Combine each run with the one `step` later into one number, which is different for different pairs."""
    base = int(max(first.max(), second.max())) + 1
    return first[:, :-step] * base + first[:, step:], second[:, :-step] * base + second[:, step:]


def _dense(names: tuple[Windows, Windows]) -> tuple[Windows, Windows]:
    """Renumber from 0 without gaps, so that a pair of numbers fits 64 bits."""
    flat = np.concatenate([names[0].ravel(), names[1].ravel()])
    numbers = np.unique(flat, return_inverse=True)[1].astype(np.int64)
    cut = names[0].size
    return numbers[:cut].reshape(names[0].shape), numbers[cut:].reshape(names[1].shape)


def _percent(share: float) -> str:
    return "less than 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"
