"""Errors about quantised checkpoints: those that are damaged, and those that are sound but not read."""

from pathlib import Path

from masklearn.base.errors import MaskLearnError

__all__ = ["damaged", "refused"]

_FIX = (
    "Use the checkpoint that it was quantised from, and let `weights` int4 or int8 quantise it; or one that is quantised in "
    "a way that docs/howto/learning.md lists."
)


def damaged(folder: Path, name: str, why: str) -> MaskLearnError:
    """Returns the error about a tensor or setting that no sound checkpoint has. name: that of the tensor or setting."""
    return MaskLearnError(
        f"{name} in {folder} is not valid", why, "Fetch the checkpoint again from a source that you trust."
    )


def refused(folder: Path, name: str, why: str) -> MaskLearnError:
    """Returns the error about a way of quantising that is not read. name: that of the tensor or setting that says so."""
    return MaskLearnError(f"{name} in {folder} is not read", why, _FIX)
