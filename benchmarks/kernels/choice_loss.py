"""What the plugin's choice of configuration and parts loses, by the roofline's model.

    python benchmarks/kernels/choice_loss.py [--worst N]

For shapes x tokens x shares of 2:4 x types of weights x cards, gate and up too, it compares the predicted time of the
choice of `plugins/kernels/schedule.h` with the fastest predicted time of all configurations and parts that it tries. Prints
the mean and the worst loss for each card and family of configurations, and the N worst problems.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from problems import SHAPES
from roofline import table

from masklearn.masks.kinds.table import kind_named
from masklearn.quant.table import FLOAT16, INT4, INT8, W8A8
from patch_compile.hardware.cards import RatedCard, rated_cards
from patch_compile.planning.roofline.choice import choose_schedule, limits_of, parts_tried
from patch_compile.planning.roofline.linear_roofline import Linear, launch_time
from patch_compile.planning.roofline.schedule import CONFIGS

CARDS = ("A100-80", "A6000", "RTX 4090", "L40S", "H100")
TOKENS = (1, 8, 16, 32, 64, 128, 192, 256, 512, 1024, 2048, 4096, 8192)
SHARES = (0.0, 0.5, 1.0)
_OF_SIXTEEN = kind_named("12:16")


class Loss(NamedTuple):
    """lost: predicted time of the choice over the fastest one's, less 1."""

    card: str
    family: str
    linear: Linear
    tokens: int
    lost: float
    chosen: str
    fastest: str


def linears(shape: tuple[int, int]) -> Iterator[Linear]:
    """Yield linears of a shape in every packing and type that kernels multiply. shape: `[N, K]`, of gate or up alone too."""
    n, k = shape
    for share in SHARES:
        for weights in (FLOAT16, W8A8):
            yield from (Linear(n, k, share, rows, (), weights) for rows in (64, 128))
            yield Linear(2 * n, k, share, 64, (), weights, gated=True)
        for weights in (FLOAT16, INT8, INT4):
            others = ((_OF_SIXTEEN, 0.25),) if weights is FLOAT16 else ()
            yield Linear(n, k, min(share, 0.75), 64, others, weights)
            yield Linear(2 * n, k, min(share, 0.75), 64, others, weights, gated=True)


def loss_of(card: RatedCard, linear: Linear, tokens: int) -> Loss:
    """Returns the loss of the choice for one problem."""
    problem, limits = linear.problem(tokens), limits_of(card)
    times = {
        (number, parts): launch_time(card, problem, number, parts)
        for number, config in enumerate(CONFIGS)
        if problem.suits(config) and config.shared_bytes <= limits.shared_bytes
        for parts in parts_tried(problem, config, limits)
    }
    chosen, fastest = choose_schedule(problem, limits), min(times, key=lambda each: times[each])
    names = (f"{CONFIGS[number].name}/{parts}" for number, parts in (chosen, fastest))
    family = CONFIGS[chosen[0]].name.removesuffix(f"-{problem.panel_rows}").rpartition("-")[0]
    family = f"{family or '16 bits'}, panels of {problem.panel_rows}"
    return Loss(card.name, family, linear, tokens, times[chosen] / times[fastest] - 1, *names)


def losses(cards: Sequence[RatedCard]) -> Iterator[Loss]:
    """Yield the losses over all shapes of `problems.py`."""
    shapes = dict.fromkeys(shape for own in SHAPES.values() for shape in own)
    for card, shape in itertools.product(cards, shapes):
        for linear, tokens in itertools.product(linears(shape), TOKENS):
            yield loss_of(card, linear, tokens)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the losses."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worst", type=int, default=10, metavar="N")
    asked = parser.parse_args(argv)
    found = list(losses([card for card in rated_cards() if card.name in CARDS]))
    groups: dict[tuple[str, str], list[float]] = {}
    for one in found:
        groups.setdefault((one.card, one.family), []).append(one.lost)
    groups["all", ""] = [one.lost for one in found]
    rows = (
        [*key, str(len(lost)), f"{sum(lost) / len(lost):.2%}", f"{max(lost):.1%}"]
        for key, lost in groups.items()
    )
    print(table(("card", "configurations", "problems", "mean loss", "worst"), rows))
    for one in sorted(found, key=lambda one: -one.lost)[: asked.worst]:
        n, k = one.linear.out_features, one.linear.in_features
        about = f"{n}×{k} {one.linear.weights} at {one.linear.share:g}, {one.tokens} tokens"
        print(f"{one.lost:.1%} {one.card}, {about}: {one.chosen} for {one.fastest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
