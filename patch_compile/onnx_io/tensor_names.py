"""Names of a model's inputs and outputs, as Optimum and onnxruntime-genai give them to ONNX graphs of language models."""

from __future__ import annotations

__all__ = [
    "ATTENTION_MASK",
    "INPUT_IDS",
    "LOGITS",
    "PAST",
    "POSITION_IDS",
    "PRESENT",
    "TOKEN_INPUTS",
    "TOKEN_TYPE_IDS",
]

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
POSITION_IDS = "position_ids"
TOKEN_TYPE_IDS = "token_type_ids"
TOKEN_INPUTS = (INPUT_IDS, ATTENTION_MASK, POSITION_IDS)  # of a decoder, beside its cache

# Beginnings of the names of a decoder's cache, as it goes in and as it comes out: `{PAST}{layer}.key` and `.value`.
PAST = "past_key_values."
PRESENT = "present."

LOGITS = "logits"
