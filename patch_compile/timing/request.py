"""Settings of a benchmark, and their defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator

from masklearn.base.option import listed
from masklearn.base.settings import Settings
from patch_compile.artifacts.bench import Contender
from patch_compile.errors import PatchCompileError
from patch_compile.options import BenchOptions
from patch_compile.sources.base import Sequences
from patch_compile.timing.points import Point, grid_of

# An engine's default profiles end at batch 8; a user's profiles may go further.
_BATCHES = (1, 4, 8, 16)
_TOKENS = (128, 1024)
_NONE = "none"


def _against(value: Any) -> Any:
    """Returns the names of models, none for `none`. Raises ValueError with the known names for any other name."""
    names = listed(value)
    if tuple(names) == (_NONE,):
        return ()
    known = [str(Contender.DENSE), str(Contender.UNIFORM)]
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is none of {', '.join(known)}, {_NONE}.")
    return names


class BenchRequest(Settings, BenchOptions):
    """The settings of `bench`, checked together."""

    against: Annotated[tuple[Contender, ...], BeforeValidator(_against)]

    @property
    def sizes(self) -> tuple[tuple[int, ...] | None, ...]:
        """Returns batch sizes, prompt tokens and past tokens, None for those that were not given."""
        return self.batch_size, self.prompt_tokens, self.past_tokens

    @property
    def models(self) -> tuple[Contender, ...]:
        """Returns the models that are timed, in the order of bench.json."""
        return tuple(which for which in Contender if which in (*self.against, Contender.HYBRID))

    def points(self, sequences: Sequences) -> list[Point]:
        """Returns the points to time for a model that takes such sequences.

        Raises PatchCompileError for more tokens than the model has positions, and for decode steps of an encoder.
        """
        positions = sequences.positions
        if not sequences.decodes and self.past_tokens:
            raise PatchCompileError(
                "--past-tokens does not go with an encoder", "It has no decode steps.", "Leave it out."
            )
        prompts = self.prompt_tokens or _fitting(_TOKENS, positions)
        behind = self.prompt_tokens or _TOKENS  # decode steps follow the prompts that were asked for
        pasts = self.past_tokens or _fitting(behind, positions and positions - 1)
        pasts = pasts if sequences.decodes else ()
        for flag, sizes, room in (("--prompt-tokens", prompts, 0), ("--past-tokens", pasts, 1)):
            if positions is not None and sizes and max(sizes) + room > positions:
                raise PatchCompileError(
                    f"{flag} {max(sizes)} is more than the model has positions",
                    f"It has {positions}.",
                    f"Give at most {positions - room}.",
                )
        return grid_of(self.batch_size or _BATCHES, prompts, pasts)


def _fitting(sizes: Sequence[int], most: int | None) -> tuple[int, ...]:
    """Returns the sizes without repeats, larger ones cut to `most`."""
    return tuple(dict.fromkeys(size if most is None else min(size, most) for size in sizes))
