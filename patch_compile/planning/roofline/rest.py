"""Predicts everything of a model but the linears of its blocks, which is equal in the dense and the hybrid model.

This is attention with its KV cache, lm_head, norms, activations and sampling. Each is a kernel of one CUDA graph. An encoder
has no cache, head and sampling, and its activation is part of a product (tests/engine/test_dense_products.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from masklearn.model.config_shapes import Sizes
from patch_compile.hardware.cards import SheetCard
from patch_compile.planning.roofline.assumptions import ASSUMED, Assumptions
from patch_compile.planning.roofline.library_product import first_bytes, library_time, product_rate


@dataclass(frozen=True, kw_only=True)
class Model(Sizes):
    """Sizes of a model, and its name. encoder: True if each token attends to all tokens, and none is predicted."""

    name: str
    encoder: bool = False


def rest_of(
    card: SheetCard, model: Model, batch: int, prompt: int, generated: int, assume: Assumptions = ASSUMED
) -> tuple[float, float]:
    """Returns the microseconds of all but the linears of the blocks: for the prompt, and for a step after it."""
    prefill = _rest(card, model, batch * prompt, batch, assume)
    step = _rest(card, model, batch, batch, assume)
    # Attention of a step reads all tokens before it: on average, those of the middle step.
    context = prompt + (generated - 1) / 2
    return (
        prefill + model.layers * _prefill_attention(card, model, batch, prompt, assume),
        step + model.layers * _decode_attention(card, model, batch, context, assume),
    )


def gating_time(card: SheetCard, intermediate: int, tokens: int, assume: Assumptions = ASSUMED) -> float:
    """Returns the microseconds of SiLU·mul, or another activation of a gate times its up, as a kernel of its own."""
    return _kernel(card, 6 * tokens * intermediate, assume)


def _kernel(card: SheetCard, moved: float, assume: Assumptions, flops: float = 0, part: float = 1) -> float:
    """Returns the microseconds of a kernel that reaches `part` of a product's share of the card."""
    at_bandwidth = moved / (card.bandwidth * 1e3 * assume.bandwidth * part)
    at_rate = flops / (product_rate(card, assume) * part)
    return first_bytes(card, assume) + assume.other_kernel + max(at_bandwidth, at_rate)


def _rest(card: SheetCard, model: Model, tokens: int, logits: int, assume: Assumptions) -> float:
    """Returns the microseconds without linears and attention.

    Per block: two norms that add the residual, rotary embedding with the write to the cache (in an encoder, the kernel that
    lays q, k and v out for attention), and SiLU·mul. Then: the embedding, the last norm, lm_head of the tokens that are
    sampled, and sampling.
    """
    norm = _kernel(card, 8 * tokens * model.hidden, assume)
    rotary = _kernel(card, 4 * tokens * (model.q + 2 * model.kv), assume)
    if model.encoder:
        return model.layers * (2 * norm + rotary) + norm
    gating = gating_time(card, model.intermediate, tokens, assume)
    head = library_time(card, (model.vocabulary, model.hidden), logits, assume)[0]
    embedding = _kernel(card, 4 * tokens * model.hidden, assume)
    sampling = _kernel(card, 2 * logits * model.vocabulary, assume)
    return model.layers * (2 * norm + rotary + gating) + norm + head + embedding + sampling


def _prefill_attention(card: SheetCard, model: Model, batch: int, prompt: int, assume: Assumptions) -> float:
    """Returns the microseconds of a block's attention. In a decoder, half of Q Kᵀ and of P V is computed."""
    moved = 4 * batch * prompt * (model.q + model.kv)
    flops = (4 if model.encoder else 2) * batch * prompt**2 * model.q
    return _kernel(card, moved, assume, flops, assume.attention)


def _decode_attention(
    card: SheetCard, model: Model, batch: int, context: float, assume: Assumptions
) -> float:
    """Returns the microseconds of a block's attention in a step, which reads the KV cache once."""
    return _kernel(card, 4 * batch * context * model.kv, assume, 0, assume.attention)
