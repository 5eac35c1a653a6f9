"""Adds up the GPU seconds that the rows of run.py take, as the cost models predict them.

    python benchmarks/kernels/predicted_seconds.py [--card H100] [--stages sweep,products] [--tokens 1,16]

Needs patch-compile, but no GPU. The stage "check" is left out, and so is what the processor does between launches.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from decoder import GENERATED, RATIOS, STEP_LAUNCHES, decoder_rows
from gpu import all_launches, copies_beyond_l2
from kernels import BYTES, WEIGHTS, Config, Device, Problem, problem_of
from problems import panel_rows
from products import EPILOGUE_SHARES, SHARES, epilogue_rows, product_rows
from roofline import MODELS, predict_model
from rows import Row
from sweep import sweep_rows

from masklearn.quant.table import FLOAT16, QUANTISED
from patch_compile.hardware.cards import RatedCard, card_named, rated_cards
from patch_compile.planning.roofline import schedule
from patch_compile.planning.roofline.choice import choose_schedule, limits_of, turns_of
from patch_compile.planning.roofline.linear_roofline import Linear, dense_path_time, dense_time, predict

_WEIGHTS = (FLOAT16, *QUANTISED.values())


class PredictedRow(NamedTuple):
    """A row that run.py would measure. seconds: of the GPU, for all launches of the row."""

    stage: str
    key: Row
    seconds: float


class PlannedKernels:
    """`Kernels` without the library: its choices by the planner's copy of them."""

    def __init__(self, card: RatedCard) -> None:
        self._card = card
        self._limits = limits_of(card)

    def configs(self) -> list[Config]:
        return [
            Config(
                c.name, c.panel_rows, c.gated, c.shared_bytes, c.tokens, c.kinds, _WEIGHTS.index(c.weights)
            )
            for c in schedule.CONFIGS
        ]

    def device(self) -> Device:
        """The card as the plugin would see it."""
        return device_of(self._card)

    def max_parts(self, problem: Problem, device: Device, config: int) -> int:
        return schedule.max_parts(_planned(problem), schedule.CONFIGS[config], device.sms)

    def schedule(self, problem: Problem, _: Device, config: int = -1) -> tuple[int, int]:
        return choose_schedule(_planned(problem), self._limits, None if config < 0 else config)


def _planned(problem: Problem) -> schedule.Problem:
    sizes = problem.tokens, problem.out_features, problem.in_features, problem.panel_rows
    return schedule.Problem(*sizes, tuple(problem.slabs.of), _WEIGHTS[problem.weights], bool(problem.gated))


def device_of(card: RatedCard) -> Device:
    """Returns a card as the plugin sees it."""
    limits = limits_of(card)
    dense = turns_of(limits.sm, geforce=limits.geforce).dense_fma
    sizes = limits.sms, limits.shared_bytes, limits.l2_bytes, limits.dram
    return Device(*sizes, limits.sm, limits.geforce, dense)


def predicted_rows(card: RatedCard) -> Iterator[PredictedRow]:
    """Yield every row that run.py would measure on a card, except rows of the stage "check"."""
    kernels: Any = PlannedKernels(card)
    device = kernels.device()
    gpu: Any = SimpleNamespace(l2=device.l2_bytes)
    for key, _ in sweep_rows(kernels, gpu, device, ()):
        yield PredictedRow("sweep", key, _sweep_seconds(card, key))
    for key, _ in product_rows(kernels, gpu, device):
        yield PredictedRow("products", key, _product_seconds(card, kernels, device, key))
    for key, _ in epilogue_rows(kernels, gpu, device):
        yield PredictedRow("epilogues", key, _epilogue_seconds(card, key))
    for key, _ in decoder_rows(kernels, device):
        yield PredictedRow("decoder", key, _decoder_seconds(card, key.get("ratio", 0.0)))


def _launched(card: RatedCard, microseconds: float, weight_bytes: int) -> float:
    """Seconds of all launches that `time_of` makes for one time."""
    copies = copies_beyond_l2(card.l2 << 20, weight_bytes)
    return all_launches(microseconds / 1e6, copies) * microseconds / 1e6


def _sweep_seconds(card: RatedCard, key: Row) -> float:
    (n, k), tokens = key["shape"], key["tokens"]
    number = next(i for i, c in enumerate(schedule.CONFIGS) if c.name == key["config"])
    config = schedule.CONFIGS[number]
    linear = Linear(n, k, key["share"], config.panel_rows, weights=config.weights)
    found = predict(card, linear, tokens, number, parts=key["parts"])
    return _launched(card, found.microseconds, linear.problem(tokens).weight_bytes)


def _product_seconds(card: RatedCard, kernels: Any, device: Device, key: Row) -> float:
    (n, k), tokens = key["shape"], key["tokens"]
    rows, weights = panel_rows((n, k)), BYTES if key["type"] == WEIGHTS[BYTES] else 0
    # cuSPARSELt is counted as slow as the dense product, and cuBLASLt's product of int8 as slow as of fp16.
    dense = dense_time(card, Linear(n, k, 0.0), tokens)[0]
    seconds = (1 + (tokens % 8 == 0 and not weights)) * _launched(card, dense, 2 * n * k)
    for share in SHARES:
        linear = Linear(n, k, share, rows, weights=_WEIGHTS[weights])
        problem = linear.problem(tokens)
        config, _ = kernels.schedule(problem_of(tokens, (n, k), rows, problem.slabs, weights=weights), device)
        seconds += _launched(card, predict(card, linear, tokens, config).microseconds, problem.weight_bytes)
    if card.sm == 90 and not weights:
        linear = Linear(n, k, 0.9, rows)
        seconds += _launched(card, dense_path_time(card, linear, tokens), linear.problem(tokens).weight_bytes)
    return seconds


def _epilogue_seconds(card: RatedCard, key: Row) -> float:
    (n, k), tokens = key["shape"], key["tokens"]
    n *= 2 if n > k else 1  # a gate and an up
    seconds = _launched(card, dense_time(card, Linear(n, k, 0.0), tokens)[0], 2 * n * k)
    for share in EPILOGUE_SHARES:
        linear = Linear(n, k, share, 64)
        microseconds = predict(card, linear, tokens).microseconds
        seconds += _launched(card, microseconds, linear.problem(tokens).weight_bytes)
    return seconds


@cache
def _decoder_seconds(card: RatedCard, ratio: float) -> float:
    """Seconds of the launches of a prompt and of the steps. Without a ratio the model is dense."""
    times = predict_model(card, MODELS["LLaMA-2-7B"], ratio or RATIOS[0]).times
    prompt, steps = (
        phase.planned_ms if ratio else phase.dense_ms for phase in (times.prefill, times.decode)
    )  # milliseconds
    step = steps / GENERATED
    return (all_launches(1.0, 1, 1) * prompt + all_launches(1.0, 1, STEP_LAUNCHES) * step) / 1e3


def main(argv: Sequence[str] | None = None) -> int:
    """Print the sums by stage and tokens, and of all; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--card", choices=[card.name for card in rated_cards()], default="H100")
    parser.add_argument("--stages", type=lambda text: text.split(","), help="these only (default: all)")
    parser.add_argument(
        "--tokens", type=lambda text: [*map(int, text.split(","))], help="these of the sweep only"
    )
    asked = parser.parse_args(argv)
    found = [
        row
        for row in predicted_rows(card_named(asked.card))
        if asked.stages is None or row.stage in asked.stages
        if asked.tokens is None or row.stage != "sweep" or row.key["tokens"] in asked.tokens
    ]
    groups: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in found:
        groups[row.stage, row.key.get("tokens", 0)].append(row.seconds)
    for (stage, tokens), seconds in groups.items():
        what = f"{stage}, {tokens} tokens" if tokens else stage
        print(f"{what:24} {len(seconds):5} rows {sum(seconds):8.1f} s")
    print(f"{'all':24} {len(found):5} rows {sum(row.seconds for row in found):8.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
