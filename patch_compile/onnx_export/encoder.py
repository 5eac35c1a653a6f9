"""Wrapper that shows an encoder to torch.export: tokens in, hidden states out, no cache."""

from typing import Any

import torch
from torch import Tensor, nn

from patch_compile.onnx_export.interface import Interface, token_dimensions
from patch_compile.onnx_io.tensor_names import ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS

__all__ = ["ExportEncoder", "encoder_interface"]


class ExportEncoder(nn.Module):
    """Wraps an encoder of transformers for tracing.

    Inputs (int64, [batch, sequence]): `input_ids`, `attention_mask`, and `token_type_ids` if the model has more than one
    token type. Outputs: `last_hidden_state` [batch, sequence, hidden], and `pooler_output` [batch, hidden] if the model
    has a pooler.
    """

    def __init__(self, traced: nn.Module) -> None:
        super().__init__()
        self.traced = traced

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Run the encoder. Every token reads all tokens whose `attention_mask` is 1."""
        settings: dict[str, Tensor] = {}
        if _has_sentences(self.traced.config):
            settings["token_type_ids"] = (
                token_type_ids if token_type_ids is not None else torch.zeros_like(input_ids)
            )
        if not _counts_tokens(self.traced):
            # Without this the model reads them from a buffer, which would become a constant of the graph.
            settings["position_ids"] = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        batch, sequence = input_ids.shape
        # One row for each query: ONNX Runtime's Attention does not broadcast a mask over the queries.
        mask = attention_mask[:, None, None, :].bool().expand(batch, 1, sequence, sequence)
        output = self.traced(input_ids=input_ids, attention_mask=mask, **settings)
        pooled = getattr(output, "pooler_output", None)
        return (output.last_hidden_state,) if pooled is None else (output.last_hidden_state, pooled)


def encoder_interface(config: Any, *, pooler: bool) -> Interface:
    """Returns inputs and outputs of an encoder. pooler: it has an output `pooler_output`."""
    names = [INPUT_IDS, ATTENTION_MASK]
    if _sentence_kinds(config) > 1:
        names.append(TOKEN_TYPE_IDS)
    batch, sequence = token_dimensions("batch", "sequence")
    # The sizes differ and are above 1: torch.export specializes 0 and 1, and merges dimensions of equal size.
    tokens = torch.ones(2, 3, dtype=torch.int64)
    return Interface(
        inputs=tuple(names),
        outputs=("last_hidden_state", "pooler_output") if pooler else ("last_hidden_state",),
        arguments=tuple(tokens.clone() for _ in names),
        dynamic_shapes=tuple({0: batch, 1: sequence} for _ in names),
        dimensions=((0, 0, "batch"), (0, 1, "sequence")),
    )


def _sentence_kinds(config: Any) -> int:
    return int(getattr(config, "type_vocab_size", 0))


def _has_sentences(config: Any) -> bool:
    return _sentence_kinds(config) > 0


def _counts_tokens(model: Any) -> bool:
    """True if positions count the tokens without padding (RoBERTa) instead of the places in the sequence."""
    return hasattr(model.embeddings, "create_position_ids_from_input_ids")
