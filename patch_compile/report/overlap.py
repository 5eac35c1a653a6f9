"""Puts an overlap of texts into words."""

from __future__ import annotations

from patch_compile.artifacts.overlap import RUN_TOKENS, OverlapUnknown, SharedRuns, TextOverlap

__all__ = ["overlap_words", "shared_words"]

_PHRASES = 0.01  # independent texts share up to this part of a window
_UNKNOWN = {
    OverlapUnknown.GIVEN_MASKS: "the masks come from {about}",
    OverlapUnknown.NO_TEXT: "the build names no text",
    OverlapUnknown.ON_HUB: "the masks were learned on {about}, which is not on this machine",
    OverlapUnknown.UNREADABLE: "{about}",
    OverlapUnknown.CHANGED: "{about} has changed since the masks were learned, by its sha256",
    OverlapUnknown.SHORT_WINDOWS: f"windows are shorter than {RUN_TOKENS} tokens",
}


def overlap_words(found: TextOverlap) -> str:
    """Returns a sentence about evaluation text that was seen in learning, or about the reason why that is not known.

    It is empty for another text that shares nothing.
    """
    if found.unknown is not None:
        why = _UNKNOWN[found.unknown].format(about=found.about)
        return f"whether the masks were learned on the evaluation text is not known: {why}"
    assert found.shared is not None
    told = shared_words(found.shared) if found.shared.shared else ""
    if not found.same_text:
        return told
    told = told or f"no {found.shared.n} tokens in a row of its windows are in those that were drawn for them"
    return f"the evaluation text is the one that the masks were learned on, by its sha256; {told}"


def shared_words(found: SharedRuns) -> str:
    """Returns the shared part of a text in one sentence."""
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


def _percent(share: float) -> str:
    return "less than 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"
