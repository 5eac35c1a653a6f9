"""Milliseconds of a whole model's prompt and generated tokens, dense and hybrid, by the roofline of its linears.

Everything but the covered linears is the same in both: attention with its KV cache, lm_head, norms, activations, and as
many kernels of one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from patch_compile.hardware.cards import Device
from patch_compile.out.plan import Slower
from patch_compile.plan.roofline.assumptions import ASSUMED, Assumptions
from patch_compile.plan.roofline.linear_roofline import (
    DENSE_PATH,
    Linear,
    Prediction,
    dense_time,
    first_bytes,
    predict,
)

__all__ = ["MODELS", "EndToEnd", "Model", "end_to_end", "rest_of"]


@dataclass(frozen=True)
class Model:
    """A decoder, by the numbers of its config.json."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @property
    def q(self) -> int:
        """Output features of q_proj."""
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        """Output features of k_proj and of v_proj."""
        return self.kv_heads * self.head_dim

    def linears(self) -> Iterator[tuple[int, int]]:
        """(out_features, in_features) of a block's: q, k, v, o, gate, up, down."""
        h, i = self.hidden, self.intermediate
        yield from ((self.q, h), (self.kv, h), (self.kv, h), (h, self.q), (i, h), (i, h), (h, i))

    def merged_linears(self) -> Iterator[tuple[int, int]]:
        """The same where products of one input are computed as one."""
        h, i = self.hidden, self.intermediate
        yield from ((self.q + 2 * self.kv, h), (h, self.q), (2 * i, h), (h, i))

    def gated_linears(self) -> Iterator[tuple[int, int]]:
        """The same where gate and up are one."""
        h, i = self.hidden, self.intermediate
        yield from ((self.q, h), (self.kv, h), (self.kv, h), (h, self.q), (2 * i, h), (h, i))


MODELS = {
    model.name: model
    for model in (
        Model("LLaMA-2-7B", 32, 4096, 11008, 32, 32, 128, 32000),
        Model("LLaMA-3.1-8B", 32, 4096, 14336, 32, 8, 128, 128256),
        Model("Qwen2.5-0.5B", 24, 896, 4864, 14, 2, 64, 151936),
    )
}


@dataclass(frozen=True)
class EndToEnd:
    """Milliseconds. dense_decode, hybrid_decode: of them, those after the prompt. slower: set where Hopper's prefill is
    slower than dense.
    """

    dense: float
    hybrid: float
    dense_decode: float
    hybrid_decode: float
    slower: Slower | None

    @property
    def speedup(self) -> float:
        """Dense over hybrid time."""
        return self.dense / self.hybrid


def end_to_end(
    device: Device,
    model: Model,
    batch: int,
    prompt: int,
    generated: int,
    ratio: float,
    assume: Assumptions = ASSUMED,
    panel_rows: int = 128,
) -> EndToEnd:
    """A prompt of `prompt` tokens and `generated` ones after it, for `batch` sequences; `ratio` of the weights is zero.

    The prompt gives the first token.
    """
    share, steps = 2 * ratio, generated - 1
    dense_shapes = list(model.merged_linears() if assume.merged else model.linears())
    times, slower = [], []
    for tokens in (batch * prompt, batch):
        dense = sum(dense_time(device, Linear(*shape, 0), tokens, assume)[0] for shape in dense_shapes)
        hybrid, why = _hybrid_block(device, model, tokens, share, assume, panel_rows)
        times.append((model.layers * dense, model.layers * hybrid))
        slower.append(why)
    rests = rest_of(device, model, batch, prompt, generated, assume)
    (dense_prefill, hybrid_prefill), (dense_step, hybrid_step) = times
    dense_decode, hybrid_decode = (steps * (step + rests[1]) / 1e3 for step in (dense_step, hybrid_step))
    dense, hybrid = ((prefill + rests[0]) / 1e3 for prefill in (dense_prefill, hybrid_prefill))
    return EndToEnd(dense + dense_decode, hybrid + hybrid_decode, dense_decode, hybrid_decode, slower[0])


def _hybrid_block(
    device: Device, model: Model, tokens: int, share: float, assume: Assumptions, panel_rows: int
) -> tuple[float, Slower | None]:
    """Microseconds of a block's linears, less the SiLU·mul that they do themselves, and why they are slower on Hopper."""

    def predicted(shapes: Iterator[tuple[int, int]]) -> list[Prediction]:
        return [predict(device, Linear(*s, share, panel_rows), tokens, assume=assume) for s in shapes]

    found = predicted(model.gated_linears() if assume.fused else model.linears())
    total = sum(p.microseconds for p in found)
    # The gate and up are the last but one; on the dense path SiLU·mul is a kernel after the product.
    if assume.fused and found[-2].config != DENSE_PATH:
        total -= _silu(device, model, tokens, assume)
    return total, next((p.slower for p in found if p.slower), None)


def rest_of(
    device: Device, model: Model, batch: int, prompt: int, generated: int, assume: Assumptions = ASSUMED
) -> tuple[float, float]:
    """Microseconds of all but the linears of the blocks: of the prompt, and of a step after it."""
    prefill = _rest(device, model, batch * prompt, batch, assume)
    step = _rest(device, model, batch, batch, assume)
    # Attention of a step reads all tokens before it: on average, those of the middle step.
    context = prompt + (generated - 1) / 2
    return (
        prefill + model.layers * _prefill_attention(device, model, batch, prompt, assume),
        step + model.layers * _decode_attention(device, model, batch, context, assume),
    )


def _kernel(device: Device, moved: float, assume: Assumptions, flops: float = 0, part: float = 1) -> float:
    """Microseconds of a kernel at `part` of the shares of a product."""
    at_bandwidth = moved / (device.bandwidth * 1e3 * assume.bandwidth * part)
    at_rate = flops / (device.dense * 1e6 * assume.tensor * assume.clock * part)
    return first_bytes(device, assume) + max(at_bandwidth, at_rate)


def _rest(device: Device, model: Model, tokens: int, logits: int, assume: Assumptions) -> float:
    """All but linears and attention: per block two norms that add the residual, rotary embedding with the KV cache's
    write, and SiLU·mul; then the embedding, the last norm, lm_head of the tokens that are sampled, and sampling.
    """
    norm = _kernel(device, 8 * tokens * model.hidden, assume)
    rotary = _kernel(device, 4 * tokens * (model.q + 2 * model.kv), assume)
    silu = _silu(device, model, tokens, assume)
    head = dense_time(device, Linear(model.vocabulary, model.hidden, 0), logits, assume)[0]
    embedding = _kernel(device, 4 * tokens * model.hidden, assume)
    sampling = _kernel(device, 2 * logits * model.vocabulary, assume)
    return model.layers * (2 * norm + rotary + silu) + norm + head + embedding + sampling


def _silu(device: Device, model: Model, tokens: int, assume: Assumptions) -> float:
    return _kernel(device, 6 * tokens * model.intermediate, assume)


def _prefill_attention(device: Device, model: Model, batch: int, prompt: int, assume: Assumptions) -> float:
    """Of one block; causal, so half of Q Kᵀ and of P V."""
    moved = 4 * batch * prompt * (model.q + model.kv)
    return _kernel(device, moved, assume, 2 * batch * prompt**2 * model.q, assume.attention)


def _decode_attention(device: Device, model: Model, batch: int, context: float, assume: Assumptions) -> float:
    """Of one block and step: the KV cache is read once."""
    return _kernel(device, 4 * batch * context * model.kv, assume, 0, assume.attention)
