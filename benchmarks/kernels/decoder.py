"""A LLaMA-shaped decoder of random weights, dense by cuBLAS and hybrid by the kernels: tokens a second, end to end.

Both models share everything but the linears: norms, rotary embedding, attention over a static cache. A decode step is a CUDA
graph, as in an engine. For the hybrid linears q, k and v are a single product, gate and up a single gated product, and o
and down add the residual themselves, as PatchLinear nodes do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from gpu import time_of
from hybrid import Epilogue, Hybrid, random_hybrid
from kernels import Device, Kernels
from rows import Row, table
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu


@dataclass(frozen=True)
class Shape:
    """Sizes of a LLaMA-shaped model without grouped queries."""

    hidden: int
    intermediate: int
    heads: int
    layers: int
    vocabulary: int

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(out_features, in_features) of a layer's products. gate_up has the sizes of gate and of up, which are equal."""
        return {
            "qkv": (3 * self.hidden, self.hidden),
            "o": (self.hidden, self.hidden),
            "gate_up": (self.intermediate, self.hidden),
            "down": (self.hidden, self.intermediate),
        }


LLAMA_2_7B = Shape(4096, 11008, 32, 32, 32000)
RATIOS = (0.25, 0.35, 0.45)
BATCH, PROMPT, GENERATED = 16, 128, 128
STEP_LAUNCHES = 4  # decode steps in a graph that is timed
# The linears of a model: layer, name, X [tokens, in], residual → [tokens, out].
Linears = Callable[..., torch.Tensor]


class DenseLinears:
    """Dense weights. A product with gate and up computes silu(gate) · up after it, as a dense engine does."""

    def __init__(self, weights: list[dict[str, torch.Tensor]]) -> None:
        self._weights = weights

    @classmethod
    def random(cls, shape: Shape, place: str = "cuda") -> DenseLinears:
        """Random weights of a scale that keeps the activations near 1."""
        layer = {name: ((1 + (name == "gate_up")) * n, k) for name, (n, k) in shape.linears.items()}
        return cls(
            [
                {
                    name: (torch.randn(size, device=place) / size[1] ** 0.5).half()
                    for name, size in layer.items()
                }
                for _ in range(shape.layers)
            ]
        )

    def __call__(self, layer: int, name: str, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        weight = self._weights[layer][name]
        if residual is not None:
            return torch.addmm(residual, x, weight.T)
        y = linear(x, weight)
        if name != "gate_up":
            return y
        gate, up = y.chunk(2, dim=-1)
        return silu(gate) * up


class HybridLinears:
    """Packed weights, by layer and name."""

    def __init__(self, device: Device, weights: list[dict[str, Hybrid]]) -> None:
        self._device, self._weights = device, weights

    @classmethod
    def random(cls, kernels: Kernels, device: Device, shape: Shape, ratio: float) -> HybridLinears:
        """Random weights whose zeros are `ratio` of all: twice that share of the slabs is 2:4."""

        def weight(name: str, size: tuple[int, int]) -> Hybrid:
            scale, gated = size[1] ** -0.5, name == "gate_up"
            return random_hybrid(kernels, size, 128, 2 * ratio, gated=gated, scale=scale)

        layers = range(shape.layers)
        return cls(
            device, [{name: weight(name, size) for name, size in shape.linears.items()} for _ in layers]
        )

    def __call__(self, layer: int, name: str, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        weight = self._weights[layer][name]
        after = Epilogue(residual=residual, activation="silu" if name == "gate_up" else "")
        y = torch.empty(len(x), weight.shape[0], dtype=x.dtype, device=x.device)
        weight.caller(x, y, self._device, -1, after)(0)
        return y


class Decoder:
    """The decoder: one prompt of `batch` sequences, then steps of one token for each.

    place: device of all tensors; length: positions of the cache.
    """

    def __init__(self, shape: Shape, linears: Linears, batch: int, length: int, place: str = "cuda") -> None:
        self.shape, self._linears, self._batch = shape, linears, batch
        generator = torch.Generator(place).manual_seed(0)
        size = shape.vocabulary, shape.hidden
        self._embedding = torch.randn(size, generator=generator, device=place).half()
        self._head = (torch.randn(size, generator=generator, device=place) / shape.hidden**0.5).half()
        self._norm = torch.ones(shape.hidden, dtype=torch.float16, device=place)
        width = shape.hidden // shape.heads
        cache = (2, shape.layers, batch, shape.heads, length, width)
        self._cache = torch.zeros(cache, dtype=torch.float16, device=place)
        angles = torch.arange(length, device=place)[:, None] * 1e4 ** (
            -torch.arange(0, width, 2, device=place) / width
        )
        self._cos, self._sin = (f(angles).half().repeat(1, 2) for f in (torch.cos, torch.sin))
        self._places = torch.arange(length, device=place)

    def __call__(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Logits of the last position, [batch, vocabulary]. tokens: [batch, count]; positions: [count], ascending."""
        batch, count = tokens.shape
        hidden = self._embedding[tokens].flatten(0, 1)
        mask = self._places <= positions[:, None]
        cos, sin = self._cos[positions], self._sin[positions]
        for layer in range(self.shape.layers):
            x = self._normed(hidden)
            qkv = self._linears(layer, "qkv", x, None).view(batch, count, 3, self.shape.heads, -1)
            qkv = qkv.permute(2, 0, 3, 1, 4)
            low, high = qkv[:2].chunk(2, dim=-1)
            q, k = qkv[:2] * cos + torch.cat((-high, low), dim=-1) * sin
            keys, values = self._cache[0, layer], self._cache[1, layer]
            keys.index_copy_(2, positions, k)
            values.index_copy_(2, positions, qkv[2])
            y = scaled_dot_product_attention(q, keys, values, attn_mask=mask)
            hidden = self._linears(layer, "o", y.transpose(1, 2).reshape(batch * count, -1), hidden)
            x = self._linears(layer, "gate_up", self._normed(hidden), None)
            hidden = self._linears(layer, "down", x, hidden)
        last = hidden.view(batch, count, -1)[:, -1]
        return linear(self._normed(last), self._head)

    def _normed(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, (self.shape.hidden,), self._norm, 1e-5)


def decoder_rows(
    kernels: Kernels, device: Device, shape: Shape = LLAMA_2_7B
) -> Iterator[tuple[Row, Callable[[], Row]]]:
    """Yield rows: seconds of the prompt and of a decode step, and tokens a second.

    The key "linears" is "dense", or "hybrid" with a "ratio".
    """
    sizes = {"batch": BATCH, "prompt": PROMPT, "generated": GENERATED}
    yield {"linears": "dense", **sizes}, lambda: _measured(shape, lambda: DenseLinears.random(shape))
    for ratio in RATIOS:
        yield (
            {"linears": "hybrid", "ratio": ratio, **sizes},
            lambda ratio=ratio: _measured(shape, lambda: HybridLinears.random(kernels, device, shape, ratio)),
        )


def _measured(shape: Shape, make: Callable[[], Linears]) -> Row:
    return _times(Decoder(shape, make(), BATCH, PROMPT + GENERATED))


def _times(decoder: Decoder) -> Row:
    prompt = torch.randint(decoder.shape.vocabulary, (BATCH, PROMPT), device="cuda")
    places = torch.arange(PROMPT, device="cuda")
    token = torch.randint(decoder.shape.vocabulary, (BATCH, 1), device="cuda")
    # Attention reads the whole cache at any place.
    middle = torch.tensor([PROMPT + GENERATED // 2], device="cuda")
    with torch.inference_mode():
        prefill = time_of([lambda _: decoder(prompt, places)], 1)
        step = time_of([lambda _: decoder(token, middle)], STEP_LAUNCHES)
    seconds = prefill + GENERATED * step
    return {"prefill": prefill, "step": step, "tokens_per_second": BATCH * GENERATED / seconds}


def decoder_table(rows: list[Row]) -> str:
    """Tokens a second, and speed-ups over the dense model: of all, of the prompt and of a step."""
    header = ["linears", "prompt ms", "decode step ms", "tokens/s", "speed-up", "prompt", "step"]
    dense = next((row for row in rows if row["key"]["linears"] == "dense"), None)
    return table(header, (_cells(row, dense) for row in rows))


def _cells(row: Row, dense: Row | None) -> list[str]:
    name, ratio, step = row["key"]["linears"], row["key"].get("ratio"), row["step"]
    cells = [name if ratio is None else f"{name}, ratio {ratio:g}"]
    cells += [f"{1e3 * row['prefill']:.2f}", f"{1e3 * step:.2f}", f"{row['tokens_per_second']:.0f}"]
    if dense is None:
        return cells + [""] * 3
    gains = [row["tokens_per_second"] / dense["tokens_per_second"]]
    gains += [dense[phase] / row[phase] for phase in ("prefill", "step")]
    return cells + [f"{gain:.2f}" for gain in gains]
