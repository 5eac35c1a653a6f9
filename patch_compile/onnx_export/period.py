"""Finds after how many layers the kinds of layers repeat, from the modules of a model without weights."""

from typing import Any

from torch import nn

from masklearn.model.architectures import Architecture
from masklearn.model.models import auto_class
from masklearn.model.pretrained import build_model
from masklearn.model.structure import per_layer
from patch_compile.onnx_export.repeat import TRACED_BLOCKS

__all__ = ["repetition"]

_PLAIN = (bool, int, float, str, type(None))


def repetition(config: Any, architecture: Architecture) -> tuple[int, int]:
    """Returns (first, period): from layer `first` on, each layer is of the kind of the one `period` layers before.

    Layers are of one kind if their modules have the same classes, shapes and settings, and the lists of the config have the
    same values for them. Of all such pairs the one with the smallest first + 3 · period is returned, since `export_model`
    traces three periods.
    """
    kinds = _kinds(config, architecture)
    layers = len(kinds)
    pairs = ((first, period) for period in range(1, layers + 1) for first in range(layers))
    fitting = (pair for pair in pairs if _repeats(kinds[pair[0] :], pair[1]))
    return min(fitting, key=lambda pair: (pair[0] + TRACED_BLOCKS * pair[1], pair[1]))


def _repeats(kinds: list[Any], period: int) -> bool:
    return kinds[period:] == kinds[:-period]


def _kinds(config: Any, architecture: Architecture) -> list[Any]:
    """Returns a description of each layer. Those of layers of one kind are equal."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=True):
        model = build_model(auto_class(architecture), config)
    lists = per_layer(config).values()
    blocks: Any = model.get_submodule(architecture.blocks)
    return [(_signature(block, i), [str(values[i]) for values in lists]) for i, block in enumerate(blocks)]


def _signature(block: nn.Module, layer: int) -> list[Any]:
    return [
        (
            name,
            type(module).__qualname__,
            [(part, tuple(tensor.shape)) for part, tensor in module.named_parameters(recurse=False)],
            [
                (key, value)
                for key, value in sorted(vars(module).items())
                if isinstance(value, _PLAIN) and not _is_number_of(layer, key, value)
            ],
        )
        for name, module in block.named_modules()
    ]


def _is_number_of(layer: int, key: str, value: Any) -> bool:
    """True for the attribute by which a module knows its layer's number."""
    return "layer" in key and not isinstance(value, bool) and value == layer
