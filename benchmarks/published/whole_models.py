"""Compares predicted decode steps of dense models with published ones at batch 1, whole_models.json.

All linears, lm_head included, have weights of `bits` bits, scales and zero points of their groups included. They are
predicted as products of a library that reads so many bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.kernels.roofline import MODELS
from masklearn.quant.table import FLOAT16, QUANTISED
from patch_compile.hardware.cards import SheetCard, card_named
from patch_compile.planning.roofline.assumptions import ASSUMED, Assumptions
from patch_compile.planning.roofline.library_product import Weights, library_time, product_time
from patch_compile.planning.roofline.rest import rest_of

PUBLISHED: list[dict[str, Any]] = json.loads(Path(__file__).with_suffix(".json").read_text())
_FITTED = PUBLISHED[0]  # the only row that a figure was fitted to
# Llama-3-8B has the sizes of LLaMA-3.1-8B.
_MODELS = {"LLaMA-2-7B": MODELS["LLaMA-2-7B"], "Llama-3-8B": MODELS["LLaMA-3.1-8B"]}
_PROMPT, _GENERATED = 6, 200  # defaults of gpt-fast's generate.py, which torchao's is a copy of


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
