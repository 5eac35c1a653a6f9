"""Errors of a checkpoint whose tensors are not those that its config.json describes."""

from masklearn.base.errors import MaskLearnError
from masklearn.model.checkpoint import Checkpoint

__all__ = ["missing_tensor", "other_shape"]


def missing_tensor(checkpoint: Checkpoint, name: str) -> MaskLearnError:
    """Returns the error of a tensor that is not in the checkpoint."""
    return MaskLearnError(
        f"{checkpoint.path} has no {name}",
        "config.json describes a model that has it.",
        "Fetch the checkpoint again.",
    )


def other_shape(checkpoint: Checkpoint, name: str, described: tuple[int, ...]) -> MaskLearnError:
    """Returns the error of a tensor that is stored in another shape than the described one."""
    return MaskLearnError(
        f"{name} is {list(checkpoint.shape(name))} in {checkpoint.path}",
        f"config.json makes it {list(described)}.",
        "Use the config.json that belongs to the weights.",
    )
