"""Compares predicted times of dense models with published ones: of decoders at batch 1, whole_models.json, and of BERT.

All linears, lm_head included, have weights of `bits` bits, scales and zero points of their groups included. They are
predicted as products of a library that reads so many bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.kernels.roofline import MODELS
from masklearn.quant.table import FLOAT16, QUANTISED
from patch_compile.hardware.cards import SheetCard, card_named
from patch_compile.planning.roofline.assumptions import ASSUMED, Assumptions
from patch_compile.planning.roofline.library_product import Weights, library_time, product_time
from patch_compile.planning.roofline.rest import Model, rest_of

PUBLISHED: list[dict[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text())
_FITTED = PUBLISHED[0]  # the only row that a figure was fitted to
_PROMPT, _GENERATED = 6, 200  # defaults of gpt-fast's generate.py, which torchao's is a copy of
# Llama-3-8B has the sizes of LLaMA-3.1-8B.
_MODELS = {"LLaMA-2-7B": MODELS["LLaMA-2-7B"], "Llama-3-8B": MODELS["LLaMA-3.1-8B"]}
_BERT: dict[str, Any] = {"encoder": True, "head_dim": 64, "vocabulary": 30522}
_ENCODERS = (
    Model(name="BERT base", layers=12, hidden=768, intermediate=3072, heads=12, kv_heads=12, **_BERT),
    Model(name="BERT large", layers=24, hidden=1024, intermediate=4096, heads=16, kv_heads=16, **_BERT),
)
# Milliseconds in fp16 on an A100 of 40 GB, by (batch, tokens): demo/BERT/README.md of NVIDIA/TensorRT at 007c347. Its last
# layer, which finds answers in the text, is not predicted.
_ENCODER_TIMES = {
    "BERT base": {(1, 128): 0.67, (64, 128): 8.05, (1, 384): 1.31, (64, 384): 26.11},
    "BERT large": {(1, 128): 1.64, (64, 128): 26.20, (1, 384): 3.12, (64, 384): 83.63},
}


def step_time(row: dict[str, Any], assume: Assumptions = ASSUMED) -> float:
    """Returns the predicted microseconds of a decode step."""
    model, card = _MODELS[row["model"]], card_named(row["card"])
    assert isinstance(card, SheetCard)
    weights = Weights(row["bits"] / 8)
    block = (
        (model.q + 2 * model.kv, model.hidden),
        (model.hidden, model.q),
        (2 * model.intermediate, model.hidden),
        (model.hidden, model.intermediate),
    )
    head = (model.vocabulary, model.hidden)
    linears = model.layers * sum(product_time(card, shape, 1, assume, weights)[0] for shape in block)
    typed_head = product_time(card, head, 1, assume, weights)[0] - library_time(card, head, 1, assume)[0]
    return linears + typed_head + rest_of(card, model, 1, _PROMPT, _GENERATED, assume)[1]


def gains_of_whole_models() -> dict[int, list[float]]:
    """Returns measured over predicted speed-up of each model with quantised weights over the same in 16 bits, by bits.

    Scales count to the bits of a row of PUBLISHED, and not to those of a type.
    """
    dense = {row["model"]: row for row in PUBLISHED if row["bits"] == FLOAT16.bits}
    gains: dict[int, list[float]] = {}
    for row in PUBLISHED:
        if (base := dense[row["model"]]) is not row:
            measured = row["tokens_per_s"] / base["tokens_per_s"]
            bits = max(kind.bits for kind in QUANTISED.values() if kind.bits <= row["bits"])
            gains.setdefault(bits, []).append(measured * step_time(row) / step_time(base))
    return gains


def fit_other_kernel() -> float:
    """Returns the value of `Assumptions.other_kernel` at which the step of LLaMA-2-7B in fp16 takes the published time."""
    without, with_one = (step_time(_FITTED, Assumptions(other_kernel=value)) for value in (0.0, 1.0))
    return (1e6 / _FITTED["tokens_per_s"] - without) / (with_one - without)


def whole_models_table() -> str:
    """Returns the table in Markdown."""
    heads = (
        "model",
        "weights",
        "ms a token, published",
        "predicted",
        "predicted over published",
        "published by",
    )
    rows = []
    for row in PUBLISHED:
        measured, predicted = 1e3 / row["tokens_per_s"], step_time(row) / 1e3
        ratio = f"{predicted / measured:.2f}" + (" (fitted)" if row is _FITTED else "")
        cells = (
            row["model"],
            row["weights"],
            f"{measured:.2f}",
            f"{predicted:.2f}",
            ratio,
            row["source"],
        )
        rows.append(cells)
    return _table(heads, rows)


def encoder_time(model: Model, batch: int, tokens: int) -> float:
    """Returns the predicted microseconds of an encoder on an A100 of 40 GB."""
    card, h, wide = card_named("A100-40"), model.hidden, model.intermediate
    assert isinstance(card, SheetCard)
    products = ((3 * h, h), (h, h), (wide, h), (h, wide))
    linears = sum(library_time(card, shape, batch * tokens, ASSUMED)[0] for shape in products)
    return model.layers * linears + rest_of(card, model, batch, tokens, 1)[0]


def encoders_table() -> str:
    """Returns the table of encoders in Markdown."""
    heads = ("model", "batch", "tokens", "ms, published", "predicted", "predicted over published")
    rows = []
    for model in _ENCODERS:
        for (batch, tokens), measured in _ENCODER_TIMES[model.name].items():
            predicted = encoder_time(model, batch, tokens) / 1e3
            figures = (f"{measured:.2f}", f"{predicted:.2f}", f"{predicted / measured:.2f}")
            rows.append((model.name, str(batch), str(tokens), *figures))
    return _table(heads, rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows)])
