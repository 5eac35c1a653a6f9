"""Names that exporters give: inputs and outputs of language models as Optimum and onnxruntime-genai have them, and the
modules around a node as torch's exporter has them."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
POSITION_IDS = "position_ids"
TOKEN_TYPE_IDS = "token_type_ids"
TOKEN_INPUTS = (INPUT_IDS, ATTENTION_MASK, POSITION_IDS)  # inputs of a decoder in addition to its cache

# Beginnings of the names of a decoder's cache, as it goes in and as it comes out: `{PAST}{layer}.key` and `.value`.
PAST = "past_key_values."
PRESENT = "present."

LOGITS = "logits"
HIDDEN = "last_hidden_state"

_KEY = "pkg.torch.onnx.name_scopes"  # of a text such as "['', 'layers.1', 'layers.1.linear2', 'linear_7']"


def torch_scopes(node: ir.Node) -> list[str]:
    """Returns the paths of the modules around a node, from outside to inside, and the node's own name; empty if torch's
    exporter did not write them."""
    try:
        scopes = ast.literal_eval(node.metadata_props.get(_KEY, "[]"))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return []  # another program's text under the same key
    return [str(scope) for scope in scopes] if isinstance(scopes, list) else []
