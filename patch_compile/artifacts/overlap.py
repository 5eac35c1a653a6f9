"""Evaluation text that was already seen when the masks were learned."""

from __future__ import annotations

from enum import StrEnum

from patch_compile.artifacts.record import Record

__all__ = ["RUN_TOKENS", "OverlapUnknown", "SharedRuns", "TextOverlap"]

RUN_TOKENS = 13  # length of the runs by which texts are compared


class OverlapUnknown(StrEnum):
    """Reasons why it is not known whether a text was seen."""

    GIVEN_MASKS = "given-masks"  # the masks come from a file
    NO_TEXT = "no-text"  # the build names no text
    ON_HUB = "on-hub"  # the text is not on this machine
    UNREADABLE = "unreadable"
    CHANGED = "changed"  # the text has another sha256 now
    SHORT_WINDOWS = "short-windows"  # windows are shorter than a run


class SharedRuns(Record):
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


class TextOverlap(Record):
    """Overlap of the evaluation text with the text that the masks were learned on.

    same_text: True if they are the same text by their sha256; shared: None if unknown; about: name of the text or of the
    masks' file, or the error that reading the text raised.
    """

    same_text: bool = False
    shared: SharedRuns | None = None
    unknown: OverlapUnknown | None = None
    about: str = ""
