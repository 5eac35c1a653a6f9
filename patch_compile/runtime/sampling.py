"""Chooses the next token from its logits: the most likely token, or a random draw."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patch_compile.errors import HOW_TO_CORRECT, UsageError
from patch_compile.runtime.decoder import Logits, Tokens, check_finite


@dataclass(frozen=True)
class Sampling:
    """Settings for the choice of the next token. The defaults choose the most likely token.

    temperature: 0 chooses the most likely token; above 0 a token is drawn. top_k: draw from the k most likely tokens, 0
    from all. top_p: draw from the fewest tokens that together have this probability (nucleus sampling, Holtzman et al. 2020,
    section 3.1). repetition_penalty: divides positive logits, and multiplies negative ones, of tokens that the sequence
    contains already (CTRL, Keskar et al. 2019, section 4.1). presence_penalty, frequency_penalty: subtracted from the logit
    of each new token of the sequence, once and for each time that it was chosen, respectively (OpenAI's API). seed: None
    draws differently each time.

    Raises UsageError, naming the field, for a value out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, valid, range_ in (
            ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
            ("top_k", self.top_k >= 0, "0 (all tokens) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("seed", self.seed is None or self.seed >= 0, "0 or more"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "above 0"),
            ("presence_penalty", -2 <= self.presence_penalty <= 2, "-2 … 2"),
            ("frequency_penalty", -2 <= self.frequency_penalty <= 2, "-2 … 2"),
        ):
            if not valid:
                raise UsageError(
                    f"The setting {name} = {getattr(self, name)} is not valid",
                    f"It is a number: {range_}.",
                    HOW_TO_CORRECT,
                )


class Sampler:
    """Chooses tokens for the rows of one batch. The draws of a row depend only on the seed and the row's number."""

    def __init__(self, sampling: Sampling, prompts: list[list[int]]) -> None:
        self._sampling = sampling
        seeds = np.random.SeedSequence(sampling.seed).spawn(len(prompts))
        self._draws = [np.random.default_rng(seed) for seed in seeds]
        self._seen = [np.unique(prompt) for prompt in prompts]
        self._chosen: list[Counter[int]] = [Counter() for _ in prompts]

    def choose(self, logits: Logits) -> Tokens:
        """Returns the next token of each row, `[batch]`. logits: `[batch, vocabulary]`.

        Raises LogitsError for logits that are not finite: an activation overflowed.
        """
        check_finite(logits)
        chosen = [self._choose(row, logits[row]) for row in range(len(logits))]
        if self._sampling.repetition_penalty != 1:
            self._seen = [np.union1d(seen, [new]) for seen, new in zip(self._seen, chosen, strict=True)]
        for counts, new in zip(self._chosen, chosen, strict=True):
            counts[new] += 1
        return np.array(chosen, np.int64)

    def _choose(self, row: int, logits: NDArray[np.float32]) -> int:
        s = self._sampling
        if s.repetition_penalty != 1:
            logits = logits.copy()
            logits[self._seen[row]] = _penalized(logits[self._seen[row]], s.repetition_penalty)
        if (s.presence_penalty or s.frequency_penalty) and (counts := self._chosen[row]):
            logits = logits.copy()
            times = np.fromiter(counts.values(), np.float32)
            logits[[*counts]] -= s.presence_penalty + s.frequency_penalty * times
        if s.temperature == 0:
            return int(logits.argmax())
        order = np.argsort(-logits, kind="stable")[: s.top_k or None]
        with np.errstate(over="ignore"):  # beyond the largest number the weight is 0 all the same
            weights = np.exp((logits[order].astype(np.float64) - float(logits[order[0]])) / s.temperature)
        shares = weights / weights.sum()
        # The nucleus includes the token whose probability takes the sum over top_p.
        nucleus = max(1, int(np.searchsorted(np.cumsum(shares), s.top_p)) + 1)
        return int(self._draws[row].choice(order[:nucleus], p=shares[:nucleus] / shares[:nucleus].sum()))


def _penalized(seen: NDArray[np.float32], penalty: float) -> NDArray[np.float32]:
    """Returns logits of tokens that the sequence contains. They stay finite for every penalty."""
    wide = seen.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # of the two results the other is taken
        values = np.where(wide > 0, wide / penalty, wide * penalty)
    return np.clip(values, -_LARGEST, _LARGEST).astype(np.float32)


_LARGEST = float(np.finfo(np.float32).max)
