"""Compares the times that run.py measured with the predicted times, for each card of benchmarks/kernels/measured.

    python benchmarks/kernels/measured_page.py [--page docs/explanation/performance.md]

`fit.py --keep` writes the files that this reads. `--page` renews the part of a page that this program writes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
import fit
from products import SHARES
from roofline import MODELS, RATIOS, predict_model, table
from rows import Row, measured, read_rows

from benchmarks.page_part import print_or_renew
from patch_compile import PatchCompileError
from patch_compile.planning.cards import PlanCard
from patch_compile.planning.roofline.assumptions import ASSUMED, Assumptions
from patch_compile.planning.roofline.linear_roofline import DENSE_PATH
from patch_compile.planning.roofline.rest import rest_of

_NOTHING = "Nothing has been measured yet."
_MODEL = MODELS["LLaMA-2-7B"]
_SHAPES = ((4096, 4096), (11008, 4096), (4096, 11008))
_PRODUCTS = (
    "Products of one linear, microseconds, predicted / measured; p is the share of 2:4 slabs. Predictions go by the "
    "data sheet, without the calibration."
)
_SLABS = (
    "Clocks of an SM for a slab: simulated from the machine code, predicted by the planner with this calibration, with the "
    "resource that limits it, and measured. Only rows count that neither DRAM nor the launch limits."
)
_DECODER = (
    f"{_MODEL.name} of random weights in CUDA graphs, predicted / measured. Without linears, the rest of the model is left. "
    "Predictions go by the data sheet."
)


def markdown() -> str:
    """The part that docs/explanation/performance.md shows."""
    files = sorted(fit.KEPT.glob("*.jsonl"))
    return "\n\n".join(part for file in files for part in _parts(read_rows(file))) or _NOTHING


def _parts(rows: Sequence[Row]) -> Iterator[str]:
    card = fit.card_of_rows(rows)
    calibrated, assume = _calibrated(rows)
    yield f"### {fit.first(rows, 'machine')['about']['gpu']}"
    yield f"{_machine(rows)} {calibrated}"
    if found := [row for row in measured(rows, "products") if _on_page(row)]:
        yield _PRODUCTS
        yield _products_table(found, card)
    if slabs := fit.slabs(rows, assume):
        yield _SLABS
        yield _slabs_table(slabs)
    if found := measured(rows, "decoder"):
        yield _DECODER
        yield _decoder_table(found, card)


def _machine(rows: Sequence[Row]) -> str:
    """The machine and its rates."""
    machine = fit.first(rows, "machine")
    about, clocks = machine["about"], machine["clocks"]
    clock = f"SM clock {clocks['sm_mhz']:.0f} MHz" if clocks else "clocks not recorded"
    by = f"driver {about['driver'] or 'unknown'}, PyTorch {about['torch']}, CUDA {about['cuda']}, {clock}"
    run = f"Measured on {machine['date'][:10]} by `benchmarks/kernels/run.py`: {by}, kernels {about['kernels']}."
    rates = (
        f"The GPU copies {found['copies'] / 1e9:.0f} GB/s, reads {found['reads'] / 1e9:.0f} GB/s, and cuBLAS reaches "
        f"{found['flops'] / 1e12:.0f} TFLOP/s in fp16."
        for found in measured(rows, "rates")
    )
    return " ".join([run, *rates])


def _calibrated(rows: Sequence[Row]) -> tuple[str, Assumptions]:
    """Returns the gain of a calibration in words, and its assumptions; without it the reason, and the usual assumptions."""
    try:
        found = fit.calibration(rows)
    except PatchCompileError as error:
        return f"The rows do not calibrate the card: {error.what}.", ASSUMED
    fitted = ", ".join(f"{name} {value:.2f}" for name, value in found.assumptions.items())
    before, after = (f"{found.error[when]:.0%}" for when in ("before", "after"))
    words = f"Predictions miss {found.times} times of products by {before} (median), and by {after} with {fitted}."
    return words, found.assume


def _on_page(row: Row) -> bool:
    return row["key"]["type"] == "float16" and tuple(row["key"]["shape"]) in _SHAPES


def _products_table(rows: Sequence[Row], card: PlanCard) -> str:
    header = ["shape", "tokens", "cuBLAS", *(f"p = {share:g}" for share in SHARES)]
    header += ["dense path at 0.9"] if any(DENSE_PATH in row for row in rows) else []
    return table(header, (_product_cells(row, card, len(header)) for row in rows))


def _product_cells(row: Row, card: PlanCard, width: int) -> list[str]:
    n, k = row["key"]["shape"]
    pairs = zip(fit.predicted_times(row, card, ASSUMED), fit.times_of(row), strict=True)
    cells = [f"{n}×{k}", str(row["key"]["tokens"]), *(f"{a:.1f} / {b:.1f}" for a, b in pairs)]
    return cells + [""] * (width - len(cells))


def _slabs_table(found: Sequence[fit.Slab]) -> str:
    header = ["configuration", "slab", "simulated", "predicted", "limit", "measured", "measured / simulated"]
    header += ["clocks of a launch", "rows", "median miss"]
    return table(header, (_slab_cells(slab) for slab in found))


def _slab_cells(slab: fit.Slab) -> list[str]:
    clocks = [
        str(slab.simulated),
        f"{slab.predicted:.0f}",
        slab.limit,
        f"{slab.measured:.0f}",
        f"{slab.ratio:.2f}",
    ]
    return [slab.config, slab.kind, *clocks, f"{slab.launch:.0f}", str(slab.rows), f"{slab.error:.0%}"]


def _decoder_table(rows: Sequence[Row], card: PlanCard) -> str:
    header = ["linears", "prompt, ms", "decode step, ms", "tokens/s"]
    return table(header, (_decoder_cells(row, card) for row in rows))


def _decoder_cells(row: Row, card: PlanCard) -> list[str]:
    key = row["key"]
    prompt, step = _predicted_decoder(key, card)
    tokens = key["batch"] * key["generated"]
    name = f"hybrid, ratio {key['ratio']:g}" if key["linears"] == "hybrid" else key["linears"]
    return [
        name,
        f"{prompt:.2f} / {1e3 * row['prefill']:.2f}",
        f"{step:.3f} / {1e3 * row['step']:.3f}",
        f"{1e3 * tokens / (prompt + key['generated'] * step):.0f} / {row['tokens_per_second']:.0f}",
    ]


def _predicted_decoder(key: Row, card: PlanCard) -> tuple[float, float]:
    """Predicted milliseconds of the prompt and of a decode step."""
    load = key["batch"], key["prompt"], key["generated"]
    if key["linears"] == "none":
        prompt, step = rest_of(card.rated, _MODEL, *load)
        return prompt / 1e3, step / 1e3
    times = predict_model(card.rated, _MODEL, key.get("ratio", RATIOS[0])).times
    prompt, steps = (
        one.planned_ms if key["linears"] == "hybrid" else one.dense_ms
        for one in (times.prefill, times.decode)
    )
    return prompt, steps / (key["generated"] - 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or renew their part of a page."""
    return print_or_renew(argv, __doc__, "measured", markdown)


if __name__ == "__main__":
    sys.exit(main())
