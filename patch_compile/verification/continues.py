"""Refuses builds of models that cannot continue text."""

from __future__ import annotations

from patch_compile.artifacts.folder import OutFolder
from patch_compile.errors import PatchCompileError
from patch_compile.sources.kinds import Capability
from patch_compile.sources.open import source_of

__all__ = ["check_continues_text"]


def check_continues_text(out: OutFolder) -> None:
    """Raise PatchCompileError for a build whose model predicts no next tokens or has no tokenizer."""
    if why := source_of(out).why_not(Capability.NEXT_TOKENS):
        raise PatchCompileError(
            f"{out.path} can't be asked to continue text", why, "Leave out --tasks and --prompt."
        )
