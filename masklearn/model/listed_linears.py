"""Lists the linears of a model by the table of architectures, its config and the headers of its shards.

Building the model with transformers gives the same linears and needs torch, which a plain installation leaves out. Tests
compare the two for every architecture. Shapes are those of the shards: that they fit config.json is not checked here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from masklearn.base.extras import require_extra
from masklearn.model.architectures import Architecture, architecture_of
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.naming import linear_name
from masklearn.model.orientation import stored_shape
from masklearn.model.pretrained import load_config

__all__ = ["ListedLinear", "listed_linears"]


@dataclass(frozen=True)
class ListedLinear:
    """A linear of a model. module: its module name; shape: (N, K); tied: True if another module shares the weight."""

    module: str
    shape: tuple[int, int]
    tied: bool


def listed_linears(checkpoint: Checkpoint) -> dict[str, ListedLinear]:
    """Returns all linears of the model by checkpoint name, in the order of the model.

    A linear that the checkpoint lacks has the shape (0, 0). Raises MaskLearnError for an architecture whose linears are
    not in the table.
    """
    row = architecture_of(checkpoint)
    if not row.linears:
        require_extra("build", f"Finding the linears of the architecture {checkpoint.config['model_type']}")
    config = load_config(checkpoint.path).get_text_config()
    return dict(_found(checkpoint, row, config))


def _found(checkpoint: Checkpoint, row: Architecture, config: Any) -> Iterator[tuple[str, ListedLinear]]:
    for module in row.before:
        yield from _if_stored(checkpoint, module)
    for block in range(config.num_hidden_layers):
        for linear in row.linears:
            yield _linear(checkpoint, f"{row.blocks}.{block}.{linear}")
    if row.encoder:
        for module in row.tail:
            yield from _if_stored(checkpoint, f"{module}.dense")
    else:
        yield _linear(checkpoint, row.head, tied=bool(config.tie_word_embeddings))


def _if_stored(checkpoint: Checkpoint, module: str) -> Iterator[tuple[str, ListedLinear]]:
    if f"{linear_name(checkpoint, module)}.weight" in checkpoint:
        yield _linear(checkpoint, module)


def _linear(checkpoint: Checkpoint, module: str, *, tied: bool = False) -> tuple[str, ListedLinear]:
    name = linear_name(checkpoint, module)
    weight = f"{name}.weight"
    # A transpose is its own inverse.
    shape = stored_shape(checkpoint, weight, checkpoint.shape(weight)) if weight in checkpoint else (0, 0)
    n, k = shape
    return name, ListedLinear(module, (n, k), tied)
