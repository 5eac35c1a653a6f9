"""Calibration text to token windows."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.checkpoint import Checkpoint
from masklearn.errors import PatchCompileError
from masklearn.recipe import LearnRecipe
from masklearn.selftext import write_text

__all__ = ["calibration_windows", "load_tokenizer", "read_text", "token_windows"]

_PIECE = 1_000_000  # characters


def read_text(path: str | Path) -> str:
    """A UTF-8 .txt file, or all .txt of a directory in the order of their names, a blank line between.

    PatchCompileError when there is none, when one is not UTF-8, or when all are empty.
    """
    path = Path(path)
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise PatchCompileError(
            f"No text at {path}",
            "A .txt file or a directory of them is needed.",
            "Give the path of local text.",
        )
    try:
        text = "\n\n".join(file.read_text(encoding="utf-8") for file in files)
    except UnicodeDecodeError as error:
        raise PatchCompileError(f"The text at {path} is not UTF-8", str(error), "Convert it.") from error
    if not text.strip():
        raise PatchCompileError(f"The text at {path} is empty", "", "Give a text with words in it.")
    return text


def load_tokenizer(model_dir: str | Path) -> Any:
    """The tokenizer of a local model directory; PatchCompileError when it has none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(model_dir), local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise PatchCompileError(
            f"{model_dir} has no tokenizer that transformers can load",
            f"{type(error).__name__}: {error}",
            "Put the tokenizer's files (tokenizer.json, tokenizer_config.json) beside the weights.",
        ) from error


def token_windows(
    tokenizer: Any, text: str, length: int, count: int | None = None, seed: int | None = None
) -> NDArray[np.int64]:
    """Cut a text into non-overlapping windows of tokens: `[count, length]`.

    Without `seed` they are the first `count` (all, if None); with it a draw without replacement, in the order of
    the text, so that calibration sees all of a long text. PatchCompileError when the text is too short.
    """
    ids = _token_ids(tokenizer, text)
    available = ids.size // length
    wanted = available if count is None else count
    if available < max(wanted, 1):
        raise PatchCompileError(
            "The text is too short",
            f"{max(wanted, 1)} windows of {length} tokens need {max(wanted, 1) * length}; it has {ids.size}.",
            "Give a longer text, or fewer or shorter windows.",
        )
    windows = ids[: available * length].reshape(available, length)
    if seed is None:
        return windows[:wanted].copy()
    drawn = np.random.default_rng(seed).choice(available, size=wanted, replace=False)
    return windows[np.sort(drawn)]


def _token_ids(tokenizer: Any, text: str) -> NDArray[np.int64]:
    """Ids of a whole text; special tokens of its beginning once, as for a text tokenised in one go."""
    parts = [
        np.asarray(tokenizer(piece, add_special_tokens=i == 0, verbose=False)["input_ids"], dtype=np.int64)
        for i, piece in enumerate(_pieces(text))
    ]
    return np.concatenate(parts)


def _pieces(text: str) -> Iterator[str]:
    """Cut a long text where a line ends: tokenisers keep some 170 bytes for every character they are given."""
    start = 0
    while len(text) - start > _PIECE:
        cut = text.rfind("\n", start, start + _PIECE) + 1 or start + _PIECE
        yield text[start:cut]
        start = cut
    yield text[start:]


def calibration_windows(
    checkpoint: Checkpoint, recipe: LearnRecipe, progress: Callable[[str, int, int], object] | None = None
) -> NDArray[np.int64]:
    """Token windows `[windows, length]`: a draw from the recipe's text, or text that the model writes itself.

    The second where `calib` is None. PatchCompileError when the text is missing or too short.
    """
    if recipe.calib is None:
        return write_text(checkpoint.path, recipe.windows, recipe.length, recipe.seed, progress)
    text = read_text(recipe.calib)
    return token_windows(load_tokenizer(checkpoint.path), text, recipe.length, recipe.windows, recipe.seed)
