"""Times every configuration with several numbers of parts, and fits the clocks that a slab takes in each.

The plugin chooses among configurations by a formula that no GPU has checked. These rows check it, and give the planner
its figures: patch_compile/planning/roofline predicts the same times.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import torch
from gpu import MeasuredGpu, time_of
from hybrid import Hybrid, random_hybrid
from kernels import BYTES, WEIGHTS, Config, Device, Kernels, Problem, problem_of
from problems import random_layout
from rows import Row, table

SHAPES = ((4096, 4096), (11008, 4096), (4096, 11008), (4864, 896))
TOKENS = (1, 16, 64, 256, 2048)
SHARES = (0.0, 0.5, 1.0)
_MOST_WASTE = 8  # a configuration for more than this multiple of the tokens is not worth its time


def sweep_rows(
    kernels: Kernels,
    gpu: MeasuredGpu,
    device: Device,
    left_out: Collection[str],
    tokens: Sequence[int] = TOKENS,
) -> Iterator[tuple[Row, Any]]:
    """Yield rows by shape, share, tokens, configuration and parts. left_out: names of configurations."""
    packings = ((128, 0), (64, 0), (128, BYTES), *((64, number) for number in range(1, len(WEIGHTS))))
    for shape, (rows, weights), share in product(SHAPES, packings, SHARES):
        counts = random_layout(shape, rows, share, weights=weights).counts
        # It is made when its first row is measured.
        weight = cache(partial(random_hybrid, kernels, shape, rows, share, l2=gpu.l2, weights=weights))
        fitting = [n for n, about in enumerate(kernels.configs()) if _fits(about, rows, weights, device)]
        for count, number in product(tokens, fitting):
            about = kernels.configs()[number]
            if about.name in left_out or about.tokens > _MOST_WASTE * max(count, 16):
                continue
            problem = problem_of(count, shape, rows, counts, weights=weights)
            for parts in _parts(kernels, problem, device, number):
                key = {"shape": list(shape), "share": share, "tokens": count}
                key |= {"config": about.name, "parts": parts}
                yield key, partial(_figures, weight, count, number, parts, kernels, device)


def _fits(about: Config, rows: int, weights: int, device: Device) -> bool:
    """True if the device runs a configuration, which takes such panels and types, and no 16-bit slabs of n:16."""
    right = about.panel_rows == rows and about.weights == weights and (about.kinds <= 2 or weights > 0)
    return right and about.shared_bytes <= device.shared_bytes


def _figures(
    weight: Callable[[], Hybrid], tokens: int, number: int, parts: int, kernels: Kernels, device: Device
) -> Row:
    hybrid = weight()
    n, k = hybrid.shape
    x = torch.randn(tokens, k, device="cuda").half()
    y = torch.empty(tokens, n, dtype=torch.float16, device="cuda")
    problem = hybrid.problem(tokens)
    call = hybrid.caller(x, y, device, number, parts=parts)
    return {
        "seconds": time_of([call] * hybrid.copies),
        "chosen": kernels.schedule(problem, device) == (number, parts),
        "beyond": parts > kernels.max_parts(problem, device, number),
        "slabs": [*hybrid.layout.counts],
        "panels": hybrid.layout.panels,
        "block_tokens": kernels.configs()[number].tokens,
    }


def _parts(kernels: Kernels, problem: Problem, device: Device, number: int) -> list[int]:
    """Numbers of parts worth a row: the plugin's choice, half the SMs, the SMs, and the most that the kernels take.

    A stream in one part runs on one SM, for up to a hundred times the time. It gets a row only where the plugin chooses
    it, or where there is not a slab for every SM. A decode kernel is cut for one block per SM. Where two blocks fit, they
    have twice the bytes in flight, which may be faster.
    """
    most, about = kernels.max_parts(problem, device, number), kernels.configs()[number]
    chosen = kernels.schedule(problem, device, number)[1]
    found = {min(most, n) for n in (device.sms // 2, device.sms, most, chosen)}
    if sum(problem.slabs.of) * -(-problem.tokens // about.tokens) < device.sms:
        found.add(1)
    # A block takes 1 KiB more than it asks for. An SM has 1 KiB more than a block may ask for.
    if (
        about.tokens <= 16
        and most == device.sms
        and 2 * (about.shared_bytes + 1024) <= device.shared_bytes + 1024
    ):
        found.add(2 * most)
    return sorted(found)


def best_table(rows: Sequence[Row]) -> str:
    """The fastest configuration for each shape, share and tokens, next to the plugin's choice, in Markdown."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        key = row["key"]
        weights = next((name for name in WEIGHTS[1:] if key["config"].startswith(name)), "16 bits")
        groups[*key["shape"], weights, key["share"], key["tokens"]].append(row)
    header = ["shape", "weights", "p", "tokens", "fastest", "µs", "chosen", "µs", "chosen / fastest"]
    lines = []
    for (n, k, weights, share, tokens), found in groups.items():
        best = min(found, key=_seconds)
        # Panels of both heights have a choice of their own; the faster choice counts.
        chosen = min((row for row in found if row["chosen"]), key=_seconds, default=None)
        cells = [f"{n}×{k}", weights, f"{share:g}", str(tokens), *_named(best)]
        cells += ["not measured", "", ""] if chosen is None else _named(chosen)
        cells += [] if chosen is None else [f"{_seconds(chosen) / _seconds(best):.2f}"]
        lines.append(cells)
    return table(header, lines)


def _seconds(row: Row) -> float:
    return float(row["seconds"])


def _named(row: Row) -> list[str]:
    return [f"{row['key']['config']}, {row['key']['parts']} parts", f"{1e6 * _seconds(row):.1f}"]


def slab_clocks(rows: Sequence[Row], sms: int, mhz: float, tokens_of: dict[str, int]) -> dict[str, Row]:
    """Clocks of an SM for a dense and a 2:4 slab, and of a launch, by configuration: least squares over its rows.

    The model is  seconds · clock = launch + dense · turns of dense slabs + sparse · turns of 2:4 slabs,  where a turn
    is a slab for one token tile on the busiest SM. Rows whose blocks fill less than a tenth of the SMs, or that the plugin
    would not run, are left out. mhz: clock while the rows ran; tokens_of: tokens of a block by configuration. error: median
    of the relative misses. A kind without slabs in these rows has 0 clocks.
    """
    by_config: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for row in rows:
        key = row["key"]
        tiles = -(-key["tokens"] // tokens_of[key["config"]])
        blocks = key["parts"] if key["parts"] > 1 else row["panels"] * tiles
        if blocks < sms / 10 or row["beyond"]:
            continue
        busiest = -(-blocks // sms) / blocks
        turns = [slabs * tiles * busiest for slabs in row["slabs"]]
        by_config[key["config"]].append((*turns, row["seconds"] * mhz * 1e6))
    found = {}
    for config, points in by_config.items():
        if len(points) < 6:
            continue
        matrix = np.array([(1.0, dense, sparse) for dense, sparse, _ in points])
        clocks = np.array([c for *_, c in points])
        # Each row counts by its relative miss, so that large products do not dominate.
        solution = np.linalg.lstsq(matrix / clocks[:, None], np.ones(len(points)), rcond=None)[0]
        misses = np.abs(matrix @ solution / clocks - 1)
        shares = dict(zip(("launch", "dense", "sparse"), map(float, solution), strict=True))
        found[config] = {**shares, "error": float(np.median(misses)), "rows": len(points)}
    return found
