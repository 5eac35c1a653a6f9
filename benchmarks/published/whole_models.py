"""Compares predicted tokens per second of dense models, at batch 1, with published ones: whole_models.json.

All linears, lm_head included, have weights of `bits` bits, scales and zero points of their groups included. They are
predicted as products of a library that reads so many bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.kernels.roofline import MODELS
from patch_compile.hardware.cards import SheetCard, card_named
from patch_compile.planning.roofline.assumptions import ASSUMED, Assumptions
from patch_compile.planning.roofline.library_product import Weights, library_time, product_time
from patch_compile.planning.roofline.rest import rest_of

PUBLISHED: list[dict[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text())
_FITTED = PUBLISHED[0]  # the only row that a figure was fitted to
_PROMPT, _GENERATED = 6, 200  # defaults of gpt-fast's generate.py, which torchao's is a copy of
# Llama-3-8B has the sizes of LLaMA-3.1-8B.
_MODELS = {"LLaMA-2-7B": MODELS["LLaMA-2-7B"], "Llama-3-8B": MODELS["LLaMA-3.1-8B"]}


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
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
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
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
