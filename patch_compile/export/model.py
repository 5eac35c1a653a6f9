"""`export_model`: one decoder directory in, one weightless ONNX model out."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from masklearn.errors import PatchCompileError
from patch_compile.export.architectures import load_config

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["export_model"]

_LOGGER = logging.getLogger(__name__)

_FUSED_OPSET = 23  # the first with Attention, RMSNormalization and RotaryEmbedding
_PLAIN_OPSET = 20
# The first block also holds constants that later blocks share; the second is the pattern, the third its proof.
_TRACED_LAYERS = 3


def export_model(
    model_dir: str | Path,
    *,
    dtype: Literal["float16", "bfloat16"],
    opset: int | None = None,
    plain_ops: bool = False,
    logits: Literal["all", "last"] = "all",
    repeat_layers: bool = True,
) -> "ir.Model":
    """Export a Hugging Face decoder as an ONNX graph without weights.

    Inputs `input_ids`, `attention_mask`, `position_ids` (int64), `past_key_values.{i}.key|value`; outputs
    `logits`, `present.{i}.key|value`; dimensions `batch`, `sequence`, `past`, `total` are dynamic. Every weight
    is an initializer `[N, K]` under its checkpoint name, with type and shape and no data (`const_value` is
    None); a tied head uses `model.embed_tokens.weight`. Run `patch_compile.passes.cleanup_passes()` next.

    Args:
        model_dir: a directory with config.json; its weights are not opened.
        dtype: type of weights and activations in the graph.
        opset: 23 by default, 20 with `plain_ops`.
        plain_ops: use no Attention op, for readers of opsets before 23.
        logits: "last" computes them for the last position only, shape `[batch, 1, vocab]`.
        repeat_layers: trace three layers and repeat the third, after checking that it equals the second node
            for node; False traces all of them.

    Raises:
        PatchCompileError: the model isn't covered, or the opset doesn't fit.
    """
    import torch

    from patch_compile.export.names import name_by_scope
    from patch_compile.export.repeat import NotRepeatableError, repeat_last_layer
    from patch_compile.export.trace import trace_decoder

    config = load_config(Path(model_dir))
    options: dict[str, Any] = {
        "dtype": getattr(torch, dtype),
        "opset": _check_opset(opset, plain_ops),
        "plain_ops": plain_ops,
        "last_logits_only": logits == "last",
    }
    model: ir.Model | None = None
    if repeat_layers and _layers_alike(config):
        try:
            model = trace_decoder(_with_layers(config, _TRACED_LAYERS), **options)
            repeat_last_layer(model, _TRACED_LAYERS, config.num_hidden_layers)
        except NotRepeatableError as error:
            _LOGGER.warning("tracing all %d layers: %s", config.num_hidden_layers, error)
            model = None
    if model is None:
        model = trace_decoder(config, **options)
    name_by_scope(model)
    return model


def _check_opset(opset: int | None, plain_ops: bool) -> int:
    chosen = opset if opset is not None else (_PLAIN_OPSET if plain_ops else _FUSED_OPSET)
    lowest = 18 if plain_ops else _FUSED_OPSET
    if not lowest <= chosen <= _FUSED_OPSET:
        raise PatchCompileError(
            f"Opset {chosen} does not fit this export",
            f"it can be {lowest} to {_FUSED_OPSET} {'with' if plain_ops else 'without'} plain ops",
            "use plain ops for an opset before 23",
        )
    return chosen


def _layers_alike(config: Any) -> bool:
    kinds = set(getattr(config, "layer_types", None) or ())
    return config.num_hidden_layers > _TRACED_LAYERS and len(kinds) <= 1


def _with_layers(config: Any, layers: int) -> Any:
    settings = config.to_dict()
    settings["num_hidden_layers"] = layers
    if settings.get("layer_types"):
        settings["layer_types"] = settings["layer_types"][:layers]
    return type(config).from_dict(settings)
