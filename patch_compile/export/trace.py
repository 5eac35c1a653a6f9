"""torch.export and translation to ONNX, under fake tensors: no weight is ever allocated."""

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir
import torch

from patch_compile.export.decoder import ExportDecoder, build_fake_decoder

__all__ = ["trace_decoder"]

_LARGEST = 2**20  # upper bound of the dynamic dimensions, in tokens or rows


def trace_decoder(
    config: Any, *, dtype: torch.dtype, opset: int, plain_ops: bool, last_logits_only: bool
) -> ir.Model:
    """Trace every layer of `config` once and name inputs, outputs, dimensions and weights.

    Weights become initializers under their checkpoint names with type and shape and `const_value` None.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    fake_mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    decoder = build_fake_decoder(config, dtype, fake_mode, plain_ops=plain_ops)
    wrapper = ExportDecoder(decoder, last_logits_only=last_logits_only)
    with fake_mode:
        arguments = _example_arguments(config, dtype)
    with torch.no_grad(), _quiet():
        program = torch.export.export(
            wrapper, arguments, dynamic_shapes=_dynamic_shapes(config), strict=False
        )
        exported = torch.onnx.export(
            program, (), dynamo=True, optimize=False, opset_version=opset, verbose=False
        )
    assert exported is not None
    model: ir.Model = exported.model
    _name_interface(model, config.num_hidden_layers)
    _name_dimensions(model)
    _name_weights(model, tied=bool(config.tie_word_embeddings))
    return model


def _example_arguments(config: Any, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    # All different and above 1: torch.export specializes 0 and 1, and merges dimensions of equal size.
    batch, sequence, past = 2, 3, 5
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    ids = torch.zeros(batch, sequence, dtype=torch.int64)
    mask = torch.ones(batch, past + sequence, dtype=torch.int64)
    shape = (batch, config.num_key_value_heads, past, head_dim)
    cache = (torch.zeros(shape, dtype=dtype) for _ in range(2 * config.num_hidden_layers))
    return (ids, mask, torch.zeros_like(ids), *cache)


def _dynamic_shapes(config: Any) -> tuple[Any, ...]:
    batch, sequence, past = (torch.export.Dim(n, min=1, max=_LARGEST) for n in ("batch", "sequence", "past"))
    # total = past + sequence, which plain ops prove and the Attention op doesn't: only AUTO accepts both.
    total = torch.export.Dim.AUTO
    tokens = {0: batch, 1: sequence}
    cache = tuple({0: batch, 2: past} for _ in range(2 * config.num_hidden_layers))
    return (tokens, {0: batch, 1: total}, tokens, cache)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's notes to its own developers out of the user's log (missing torchvision, pytree)."""
    logger = logging.getLogger("torch.onnx._internal.exporter")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


def _name_interface(model: ir.Model, layers: int) -> None:
    parts = [f"{i}.{part}" for i in range(layers) for part in ("key", "value")]
    inputs = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{p}" for p in parts)]
    outputs = ["logits", *(f"present.{p}" for p in parts)]
    for value, name in zip(model.graph.inputs, inputs, strict=True):
        value.name = name
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        value.name = name


def _name_dimensions(model: ir.Model) -> None:
    """Replace torch's symbols (s10, "s15 + s70") by the names of the dimensions everywhere."""
    ids, mask, _, key, *_rest = model.graph.inputs
    names: dict[str, str] = {}
    for value, axis, name in ((ids, 0, "batch"), (ids, 1, "sequence"), (mask, 1, "total"), (key, 2, "past")):
        assert value.shape is not None
        names[str(value.shape[axis])] = name
    for value in _values(model.graph):
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dim, names) for dim in value.shape])


def _renamed(dim: int | ir.SymbolicDim, names: dict[str, str]) -> int | ir.SymbolicDim:
    if isinstance(dim, int) or dim.value is None:
        return dim
    text = re.sub(r"\bs\d+\b", lambda match: names.get(match[0], match[0]), str(dim.value))
    return ir.SymbolicDim("total" if text in ("past + sequence", "sequence + past") else text)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _name_weights(model: ir.Model, *, tied: bool) -> None:
    """Give weights their checkpoint names and take away their (fake) data; real constants keep theirs."""
    from torch._subclasses.fake_tensor import FakeTensor

    for value in list(model.graph.initializers.values()):
        assert value.name is not None and value.const_value is not None
        name = value.name.removeprefix("decoder.")
        if name == "lm_head.weight" and tied:
            # torch names a tied weight after the head; checkpoints store it as the embedding.
            name = "model.embed_tokens.weight"
        fake = isinstance(value.const_value.raw, FakeTensor)
        value.const_value = None if fake else ir.tensor(value.const_value.numpy(), name=name)
        value.name = name
