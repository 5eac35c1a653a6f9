"""Turns text into windows of tokens for calibration and training, and computes the amount of text that training needs."""

import contextlib
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.device import usable_device
from masklearn.base.errors import MaskLearnError
from masklearn.base.printable import counted
from masklearn.base.processes import process_count
from masklearn.base.progress import OnStep
from masklearn.base.shard import Shard, write_shard
from masklearn.masks.record import TextRecord
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.config_shapes import text_settings
from masklearn.model.pretrained import load_tokenizer, special_ends, token_ids
from masklearn.recipe import LearnRecipe
from masklearn.text import SourceKind, TextSource, open_text
from masklearn.text.selftext import write_text

_LEAST = 4096  # windows: 2M tokens in windows of 512, more than a CPU trains on in five hours
_MOST = 2**26  # tokens: their ids take half a GB
# Estimated speed of a GPU (none has been timed), and operations per weight and token: 2 in the teacher, 6 in the student.
_FLOPS, _OPERATIONS = 150e12, 8
# Up to four passes over a text are nearly as good as new text of that length (Muennighoff et al., arXiv 2305.16264).
_PASSES = 4


def wanted_windows(recipe: LearnRecipe, weights: int) -> int:
    """Returns the number of windows that training may use besides the calibration windows.

    It grows with the training budget, up to 64M tokens. weights: number of weights of the covered linears.
    """
    if not recipe.trains:
        return 0
    wanted = [_LEAST, recipe.steps * recipe.batch if recipe.traits.trains() else 0]
    if recipe.repairs:
        wanted.append(_of_repair(recipe, weights))
    return min(max(wanted) * process_count(), max(_LEAST, _MOST // recipe.length))


def _of_repair(recipe: LearnRecipe, weights: int) -> int:
    if recipe.repair_steps is not None:
        return recipe.repair_steps * recipe.batch
    if recipe.repair_minutes is None or usable_device(recipe.device).type != "cuda":
        return 0  # `_LEAST` is enough for the default budget and for a CPU
    tokens = 60.0 * recipe.repair_minutes * _FLOPS / (_OPERATIONS * max(1, weights))
    return math.ceil(min(tokens, _MOST) / recipe.length)


def too_many_passes(what: str, seen: int, windows: int, length: int) -> str | None:
    """Returns a warning for a run that trains on `seen` windows of a text with `windows`, or None if that is enough text.

    what: name of the run; length: tokens per window.
    """
    if seen <= _PASSES * windows:
        return None
    return (
        f"{what} goes {seen / windows:.0f} times over its {windows * length:,} tokens of text; beyond {_PASSES} times that "
        "brings less and less: give a longer `calib`"
    )


def few_tokens(recipe: LearnRecipe, count: int, widest: int) -> str | None:
    """Returns a warning for a solve on `count` windows, whose Hessian of the widest linear is far from full rank, or None.

    widest: inputs of that linear.
    """
    tokens = count * recipe.length
    if not recipe.traits.solves or tokens >= _FEW_PER_INPUT * widest:
        return None
    cure = "leave `windows` out" if recipe.windows else "give a longer `calib`"
    return (
        f"the calibration is small: {tokens:,} tokens, {tokens / widest:.1f} for each input of the widest linear. The "
        f"weights fit these tokens, and lose more on other text; {cure}"
    )


_FEW_PER_INPUT = 2  # tokens
_HELD_OUT = 16  # windows; an eighth of the pool if that is less
_PIECE = 1_000_000  # characters
# Windows are drawn from this many characters at the beginning of a text. More is read only if they give too few windows.
# A dataset is downloaded while it is read, so the number is smaller for it.
_DRAWN_FROM = {SourceKind.FILE: 64_000_000, SourceKind.FOLDER: 64_000_000, SourceKind.DATASET: 16_000_000}
# A text with fewer tokens in so many characters is refused: a file of zeros or blanks would be read to its end, however
# large.
_FEW_TOKENS, _OF_CHARACTERS = 16_000, 16_000_000
# Windows that the model writes for training besides those for calibration. Writing takes half as long as training on
# the text (SmolLM2-135M on 2 cores: 2.6 s and 4.8 s per window of 512 tokens).
_WRITTEN_MORE = 64


@dataclass(frozen=True, eq=False)
class TokenPool:
    """Windows of tokens, and a record of their source.

    windows: token ids `[n, length]`: first the windows for calibration, then the others in a seeded random order;
    count: number of windows for calibration.
    """

    windows: NDArray[np.int64]
    record: TextRecord
    count: int

    def calibration(self) -> NDArray[np.int64]:
        """Returns the windows for calibration, `[count, length]`, in the order of the text."""
        return self.windows[: self.count]

    def held_out(self) -> tuple["TokenPool", NDArray[np.int64]]:
        """Split the last windows off. Returns the pool for training, and the held-out windows `[count, length]`.

        The held-out windows are windows that calibration does not use, if there are any. A pool with a single window is
        returned as both.
        """
        total = len(self.windows)
        count = min(_HELD_OUT, max(1, total // 8))
        if total == 1:
            return self, self.windows
        training, held_out = self.windows[:-count], self.windows[-count:]
        return TokenPool(training, self.record, min(self.count, len(training))), held_out

    def batches(self, size: int, *, seed: int = 0, skip: int = 0) -> Iterator[NDArray[np.int64]]:
        """Yield batches `[size, length]` without end.

        The first pass is over the windows that calibration did not use, every later pass is over all windows. Each pass is
        shuffled by the seed and its number, and a batch may span two passes. skip: number of batches to leave out at the
        beginning (they are not computed), so that training resumes exactly at the batch at which it stopped.
        """
        order = self._order(seed, skip * size)
        while True:
            yield self.windows[[next(order) for _ in range(size)]]

    def _order(self, seed: int, start: int) -> Iterator[int]:
        """Yield the indices of windows, from position `start` of the endless sequence on."""
        total, fresh = len(self.windows), len(self.windows) - self.count
        number, offset = (0, start) if start < fresh else divmod(start - fresh, total)
        number += start >= fresh
        while True:
            shuffle = np.random.default_rng([seed, number])
            order = shuffle.permutation(total) if number else self.count + shuffle.permutation(fresh)
            yield from order[offset:].tolist()
            number, offset = number + 1, 0


def token_pool(
    checkpoint: Checkpoint,
    recipe: LearnRecipe,
    progress: OnStep | None = None,
    *,
    training: int = 0,
    keep: Path | None = None,
    widest: int = 0,
) -> TokenPool:
    """Returns windows of the recipe's text, or of text that the model writes itself if `recipe.calib` is None.

    Windows are drawn by the seed, without replacement, from the first 64 million characters of files or 16 million of a
    dataset, or from more characters if these have too few windows. The calibration windows do not depend on `training`.

    training: number of windows for training besides the windows for calibration. A short text has fewer, and the model
    writes at most 64 of them itself. keep: file in which text that the model writes is kept, so that a later call with the
    same arguments reads it there; None to keep no text. widest: inputs of the widest linear, which decide how many windows a
    recipe without `windows` asks for; a text that is too short for these gives all that it has.

    Raises MaskLearnError if the text is missing, too short or empty, or the model can't write.
    """
    count, length, seed = recipe.calibration_windows(widest), recipe.length, recipe.seed
    if recipe.calib is None:
        kind, name = SourceKind.SELF, "text written by the model"
        windows = _written(checkpoint, recipe, count + min(training, _WRITTEN_MORE), progress, keep)
    else:
        source = open_text(recipe.calib)
        kind, name = source.kind, source.name
        tokenizer, characters = load_tokenizer(checkpoint.path), _DRAWN_FROM[kind]
        ids, alone = _read_ids(tokenizer, source, count * length, training * length, characters, progress)
        if recipe.windows is None:
            count = max(1, min(count, ids.size // length))
        windows = _draw(_cut(ids, length, count, source.spec), count, training, seed, alone // length)
        _set_ends(windows, tokenizer, _start_token(checkpoint.path))
    record = TextRecord(
        source=kind.value,
        name=name,
        sha256=hashlib.sha256(windows.astype("<i8").tobytes()).hexdigest(),
        tokens=int(windows.size),
        windows=count,
        length=length,
        seed=seed,
    )
    return TokenPool(windows, record, count)


def _start_token(model_dir: Path) -> int | None:
    """Returns the token that the config calls the start token, None if it names none of the vocabulary."""
    settings = text_settings(model_dir)
    start = getattr(settings, "bos_token_id", None)
    return start if isinstance(start, int) and 0 <= start < settings.vocab_size else None


def _set_ends(windows: NDArray[np.int64], tokenizer: Any, start: int | None) -> None:
    """Write the special tokens of a text's ends over the first and last tokens of windows `[n, length]`.

    Models treat their first token apart: much attention goes to it, and its activations are hundreds of times as large
    (StreamingLLM, arXiv 2309.17453; massive activations, arXiv 2402.17762). A solve that has not seen a start token there
    breaks it. If the tokenizer puts special tokens around a text, all windows get them. Else windows 0, 1, 4, 5, … get
    the start token, because texts with it and without it are equally likely; scores are measured on the even windows and
    checked on the odd ones (`Moment`).

    start: the model's start token, None if it has none.
    """
    first, last = special_ends(tokenizer)
    if len(first) + len(last) >= windows.shape[1]:
        return
    if first or last:
        windows[:, : len(first)] = first
        windows[:, windows.shape[1] - len(last) :] = last
    elif start is not None and windows.shape[1] > 1:
        windows[np.arange(len(windows)) % 4 < 2, 0] = start


def _written(
    checkpoint: Checkpoint, recipe: LearnRecipe, count: int, progress: OnStep | None, keep: Path | None
) -> NDArray[np.int64]:
    """Returns windows that the model writes, or those in the file `keep` if the same call wrote them there."""

    length, seed, device = recipe.length, recipe.seed, recipe.device
    if keep is not None:
        identity = f"{checkpoint.fingerprint()} {count} {length} {seed} {device}"
        with contextlib.suppress(MaskLearnError):  # a missing or damaged file is written again
            shard = Shard.open(keep)
            if shard.metadata.get("identity") == identity:
                return shard.read("windows")
    windows = write_text(checkpoint.path, count, length, seed, progress, device=device)
    if keep is not None:
        checkpoint.check_unchanged()
        keep.parent.mkdir(parents=True, exist_ok=True)
        write_shard(keep, {"windows": ("I64", windows.shape)}, lambda _: windows, {"identity": identity})
    return windows


def first_windows(tokenizer: Any, spec: str | Path, length: int, count: int) -> NDArray[np.int64]:
    """Returns the first `count` windows of a text, `[count, length]`. It reads no more text than it needs.

    spec: see `open_text`. Raises MaskLearnError if the text is missing, empty or too short.
    """
    source = open_text(spec)
    ids, _ = _read_ids(tokenizer, source, count * length, 0, 0)
    return _cut(ids, length, count, source.spec)[:count].astype(np.int64)


def _read_ids(
    tokenizer: Any,
    source: TextSource,
    tokens: int,
    more: int,
    characters: int,
    progress: OnStep | None = None,
) -> tuple[NDArray[np.int32], int]:
    """Read token ids from the beginning of a text.

    Reading stops after `tokens` + `more` tokens and `characters` characters, or at the end of the text. Returns the ids,
    and the number of ids that would have been read if `more` were 0.

    Raises MaskLearnError for a text that has hardly a token in its first 16 million characters.
    """
    read, total, alone, blank, parts = 0, 0, 0, True, []

    def counted() -> Iterator[str]:
        nonlocal read, blank
        for piece in source.pieces():
            read += len(piece)
            blank = blank and not piece.strip()
            yield piece

    stored = sum(file.stat().st_size for file in source.files)
    expected = min(stored, characters) if stored else characters
    for ids in _token_ids(tokenizer, counted()):
        parts.append(ids)
        total += ids.size
        if progress:
            progress("reading text", read, max(read, expected))
        if read > _OF_CHARACTERS and total < _FEW_TOKENS:
            raise MaskLearnError(
                f"The text at {source.spec} holds hardly any words",
                f"Its first {read:,} characters are {total:,} tokens of the model.",
                "Give a text that the model's tokenizer can read.",
            )
        enough = read >= characters
        if enough and total >= tokens and not alone:
            alone = total
        if enough and total >= tokens + more:
            break
    if blank:
        raise MaskLearnError(
            f"The text at {source.spec} is empty", "It holds only blanks.", "Give a text with words in it."
        )
    return np.concatenate(parts), alone or total


def _token_ids(tokenizer: Any, pieces: Iterator[str]) -> Iterator[NDArray[np.int32]]:
    """Yield the token ids of a text piece by piece. Only the first piece gets the special tokens of a text's beginning."""
    for i, piece in enumerate(_tokenised_together(pieces)):
        ids = token_ids(tokenizer, piece, add_special_tokens=i == 0, verbose=False)
        yield np.asarray(ids, dtype=np.int32)


def _tokenised_together(pieces: Iterator[str]) -> Iterator[str]:
    """Cut a text at ends of lines into pieces to tokenise separately: tokenisers use some 170 bytes per character."""
    held: list[str] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size <= _PIECE:
            continue
        text, start = "".join(held), 0
        while len(text) - start > _PIECE:
            cut = text.rfind("\n", start, start + _PIECE) + 1 or start + _PIECE
            yield text[start:cut]
            start = cut
        held, size = [text[start:]], len(text) - start
    yield "".join(held)


def _cut(ids: NDArray[np.int32], length: int, count: int, spec: str) -> NDArray[np.int32]:
    """Returns all windows of a text, `[available, length]`. Raises MaskLearnError if there are fewer than `count`."""
    available = ids.size // length
    if available < count:
        raise MaskLearnError(
            f"The text at {spec} is too short",
            f"It has {ids.size} tokens, and {counted(count, 'window')} of {length} would take {count * length}.",
            "Give a longer text, or fewer or shorter windows.",
        )
    return ids[: available * length].reshape(available, length)


def _draw(windows: NDArray[np.int32], count: int, more: int, seed: int, drawn_from: int) -> NDArray[np.int64]:
    """Draw `count` of the first `drawn_from` windows, in the order of the text, and `more` others in random order.

    There are fewer than `more` others if the text has no more windows.
    """
    rng = np.random.default_rng(seed)
    first = np.sort(rng.choice(drawn_from, size=count, replace=False))
    others = rng.permutation(np.setdiff1d(np.arange(len(windows)), first, assume_unique=True))[:more]
    drawn: NDArray[np.int64] = windows[np.concatenate([first, others])].astype(np.int64)
    return drawn
