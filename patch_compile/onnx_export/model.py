"""`export_model`: exports a model directory to an ONNX model without weights."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from masklearn.model.architectures import architecture_of_config
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.structure import shortened, shrunk
from patch_compile.errors import PatchCompileError
from patch_compile.onnx_export.architectures import FUSED_OPSET, has_pooler, load_config, text_config

if TYPE_CHECKING:
    import onnx_ir as ir

_LOGGER = logging.getLogger(__name__)
_LOWEST_OPSET = 18


def export_model(
    model_dir: str | Path,
    *,
    dtype: Literal["float16", "bfloat16"],
    opset: int = FUSED_OPSET,
    logits: Literal["all", "last"] = "all",
) -> "ir.Model":
    """Export a Hugging Face decoder or encoder as an ONNX graph without weights.

    A decoder has the inputs `input_ids`, `attention_mask`, `position_ids` (int64) and `past_key_values.{i}.key|value`,
    the outputs `logits` and `present.{i}.key|value`, and the dynamic dimensions `batch`, `sequence`, `past` and `total`.
    An encoder has the inputs `input_ids`, `attention_mask` and, if it has several token types, `token_type_ids`; its
    outputs are `last_hidden_state` and, if the checkpoint has a pooler, `pooler_output`.

    Every weight is an initializer with its checkpoint name, a type and a shape, but no data (`const_value` is None). The
    shape of a linear's weight is `[N, K]`, even if the checkpoint stores it transposed (GPT-2). A tied head uses the
    embedding. Run `patch_compile.passes.cleanup_passes()` next.

    Three blocks of layers are traced, and the third is repeated if it equals the second node for node; else all layers are
    traced. A block is one layer, or one period of a model that mixes kinds.

    Args:
        model_dir: a directory with config.json and safetensors files, of which only the headers are read.
        dtype: type of weights and activations in the graph.
        opset: 18 to 23. The Attention op needs 23; a graph of an earlier opset has plain operators.
        logits: "last" computes them for the last position only, shape `[batch, 1, vocab]`; encoders ignore it.

    Raises:
        PatchCompileError: the model isn't covered, or the opset doesn't fit.
    """
    if not _LOWEST_OPSET <= opset <= FUSED_OPSET:
        raise PatchCompileError(
            f"Opset {opset} does not fit this export",
            f"It can be {_LOWEST_OPSET} to {FUSED_OPSET}.",
            "Choose another opset.",
        )
    import torch

    from patch_compile.onnx_export.names import name_as_in, name_by_scope
    from patch_compile.onnx_export.trace import trace_model

    config, checkpoint = load_config(Path(model_dir)), Checkpoint.open(model_dir)
    text, whole = text_config(config), architecture_of_config(config)
    architecture = architecture_of_config(text)
    options: dict[str, Any] = {
        "architecture": architecture,
        "dtype": getattr(torch, dtype),
        "opset": opset,
        "last_logits_only": logits == "last",
        "pooler": has_pooler(checkpoint, architecture),
    }
    model = _trace_repeated(text, options)
    if model is None:
        model = trace_model(text, **options)
    name_by_scope(model)
    name_as_in(checkpoint, model, built=architecture.base, whole=whole.base)
    return model


def check_traceable(model_dir: Path) -> None:
    """Raise PatchCompileError if torch can't export a decoder that the table of architectures lacks. A small model of its
    config is traced.

    That takes seconds, and learning masks takes hours.
    """
    import torch

    from patch_compile.onnx_export.trace import trace_model

    text = text_config(load_config(model_dir))
    architecture = architecture_of_config(text)
    if architecture.own_masks:
        trace_model(shortened(shrunk(text), 1), architecture=architecture, dtype=torch.float16)


def _trace_repeated(config: Any, options: dict[str, Any]) -> "ir.Model | None":
    """Trace three blocks and repeat the last. Returns None if there are too few layers.

    Warns and returns None if the blocks differ.
    """
    from patch_compile.onnx_export.repeat import (
        TRACED_BLOCKS,
        NotRepeatableError,
        repeat_last_block,
        repetition,
    )
    from patch_compile.onnx_export.trace import trace_model

    architecture, layers = options["architecture"], config.num_hidden_layers
    first, period = repetition(config, architecture)
    # Layers of other kinds at the start and layers beyond the last whole period are traced too, before the repeated layers.
    traced = first + (layers - first) % period + TRACED_BLOCKS * period
    if traced >= layers:
        return None
    model = trace_model(shortened(config, traced), **options)
    try:
        repeat_last_block(model, traced, layers, period, architecture.blocks)
    except NotRepeatableError as error:
        _LOGGER.warning("tracing all %d layers: %s", layers, error)
        return None
    return model
