"""The device that a run computes on."""

from typing import TYPE_CHECKING

from masklearn.errors import PatchCompileError

if TYPE_CHECKING:
    import torch

__all__ = ["usable_device"]


def usable_device(name: str | None) -> "torch.device":
    """The device of this name, None for CUDA when there is one. PatchCompileError when it cannot be used."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise PatchCompileError(
            f"The device {name!r} cannot be used", str(error).splitlines()[0], "Give cpu or cuda."
        ) from error
