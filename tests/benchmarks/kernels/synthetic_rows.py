"""Rows as run.py would write them on an A100 that behaves as `TRUE` says."""

import importlib
import json
from dataclasses import replace
from itertools import product

from patch_compile.hardware.cards import card_named
from patch_compile.planning.cards import PlanCard
from patch_compile.planning.roofline.assumptions import ASSUMED
from tests.plugins.host_kernel import BENCH

assert BENCH.is_dir()  # host_kernel has put it on the path
fit, problems, products, sweep = map(importlib.import_module, ("fit", "problems", "products", "sweep"))

CARD = PlanCard(card_named("A100-80"))
TRUE = replace(ASSUMED, bandwidth=0.8, tensor=0.7, launch=2.0)
ABOUT = {
    "gpu": "NVIDIA A100-SXM4-80GB", "capability": [8, 0], "driver": "580.1", "torch": "2.11", "cuda": "13.0",
    "kernels": "0a1b",
}  # fmt: skip


def written_rows(path, *parts, clock=None, about=ABOUT):
    """Writes the machine's row and these rows to a file. clock: MHz that the sensors of every row say."""
    sensors = {"sensors": {"sm_mhz": clock, "memory_mhz": 8000.0, "watts": 300.0} if clock else {}}
    rows = [{"stage": "machine", "key": {}, "about": about}]
    rows += [row | sensors for part in parts for row in part]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def product_rows(true=TRUE):
    for shape in ((4096, 4096), (11008, 4096), (896, 896)):
        for tokens in problems.TOKENS:
            schedule = {}
            for share in products.SHARES:
                made = fit.Linear(*shape, share, problems.panel_rows(shape))
                chosen = fit.predict(CARD.rated, made, tokens, None, true)
                schedule[str(share)] = [chosen.config, chosen.parts]
            key = {"shape": list(shape), "tokens": tokens, "type": "float16"}
            row = {"stage": "products", "key": key, "schedule": schedule}
            dense, *hybrid = (time / 1e6 for time in fit.predicted_times(row, CARD, true))
            yield row | {"cublas": dense, "hybrid": dict(zip(schedule, hybrid, strict=True))}


def sweep_rows(true=TRUE):
    """The rates, and the sweep with the number of parts that the plugin chooses for each configuration."""
    rates = {"copies": 1.5e12, "reads": 1.7e12, "flops": 2.5e14, "sms": CARD.rated.sms, "l2": 40 << 20}
    yield {"stage": "rates", "key": {}} | rates
    for number, config in enumerate(fit.CONFIGS):
        if config.kinds > 2 and not config.weights.quantised:
            continue
        for shape, share, tokens in product(sweep.SHAPES, sweep.SHARES, sweep.TOKENS):
            made = fit.Linear(*shape, share, config.panel_rows, weights=config.weights)
            found, problem = fit.predict(CARD.rated, made, tokens, number, true), made.problem(tokens)
            key = {"shape": list(shape), "share": share, "tokens": tokens, "config": config.name}
            row = {"stage": "sweep", "key": key | {"parts": found.parts}, "seconds": found.microseconds / 1e6}
            row |= {"chosen": True, "beyond": False, "slabs": problem.slabs[:2], "panels": problem.panels}
            yield row | {"block_tokens": config.tokens}


def other_rows():
    """Rows of a crash: the measurement that began, and why it has no figures."""
    key = {"config": "mid-64"}
    yield {"stage": "trying", "key": {"stage": "check", "key": key}}
    yield {"stage": "check", "key": key, "failed": "hangs", "fatal": True}
