"""Fits the planner's assumptions to the rows that run.py measured on a GPU, and writes a file that `plan` reads.

    python benchmarks/kernels/fit.py gpu.jsonl [--out FOLDER]

Needs patch-compile, but no GPU. Prints the fitted values and the predictions' error before and after. Without --out the
file lies where `patch-compile plan` on this machine looks for calibrations, and plans for that GPU go by it from then on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from problems import panel_rows
from rows import Row, measured, read_rows

from patch_compile import PatchCompileError
from patch_compile.hardware.gpu import Gpu
from patch_compile.plan.cards import PlanCard, card_of_gpu
from patch_compile.plan.measured import MeasuredCard
from patch_compile.plan.measured_fit import Fit, fit_assumptions
from patch_compile.plan.roofline.assumptions import Assumptions
from patch_compile.plan.roofline.linear_roofline import (
    DENSE_PATH,
    Linear,
    dense_path_time,
    dense_time,
    predict,
)
from patch_compile.plan.roofline.schedule import CONFIGS

__all__ = ["calibration", "fit"]

_BACKEND = "the kernels' benchmark"
_NUMBERS = {config.name: number for number, config in enumerate(CONFIGS)}


def main(argv: Sequence[str] | None = None) -> int:
    """Fit, print and write; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path, help="the file that run.py wrote")
    parser.add_argument("--out", type=Path, help="folder for the calibration, in place of this machine's own")
    asked = parser.parse_args(argv)
    try:
        found = calibration(read_rows(asked.rows))
    except (PatchCompileError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, value in found.assumptions.items():
        print(f"{name} = {value:.3g}")
    for name, why in found.left.items():
        print(f"{name} stays: {why}")
    before, after = (f"{found.error[when]:.1%}" for when in ("before", "after"))
    print(f"median error of {found.times} times: {before} as assumed, {after} as fitted")
    print(f"wrote {found.save(asked.out)}")
    return 0


def calibration(rows: Sequence[Row]) -> MeasuredCard:
    """The calibration of the GPU that these rows are from.

    Raises PatchCompileError if they do not determine one, ValueError if they are of no card of the table.
    """
    about = _first(rows, "machine")["about"]
    card = card_of_gpu(Gpu(about["gpu"], tuple(about["capability"])))
    if card is None:
        raise ValueError(f"the table of cards has no data sheet for {about['gpu']} or its architecture")
    clocks = _clocks(rows)
    found, count = fit(rows, card, clocks)
    return MeasuredCard(
        gpu=about["gpu"],
        card=card.name,
        own=not card.stands_for,
        clocks=clocks,
        driver=about["driver"],
        backend=_BACKEND,
        version=about["torch"],
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        model="the linears of benchmarks/kernels/problems.py",
        assumptions=found.fitted,
        left=found.left,
        times=count,
        error={"before": found.before, "after": found.after},
    )


def fit(rows: Sequence[Row], card: PlanCard, clocks: dict[str, float] | None = None) -> tuple[Fit, int]:
    """Fit to the times of the stage "products"; returns the fit and the number of times."""
    products = [row for row in measured(rows, "products") if row["key"]["type"] == "float16"]
    times = [1e6 * seconds for row in products for seconds in _seconds(row)]

    def predicted(assume: Assumptions) -> list[float]:
        return [time for row in products for time in _predicted(row, card, assume)]

    sustained = clocks["sm_mhz"] / (1e3 * card.rated.clock) if clocks else None
    return fit_assumptions(times, predicted, sustained), len(times)


def _seconds(row: Row) -> list[float]:
    return [row["cublas"], *row["hybrid"].values(), *([row["dense path"]] if "dense path" in row else [])]


def _predicted(row: Row, card: PlanCard, assume: Assumptions) -> list[float]:
    """Microseconds in the order of `_seconds`: dense, hybrid with the configuration that ran, and the dense path."""
    (n, k), tokens = row["key"]["shape"], row["key"]["tokens"]
    rows = panel_rows((n, k))
    found = [dense_time(card.rated, Linear(n, k, 0.0, rows), tokens, assume)[0]]
    for share, (config, _) in row["schedule"].items():
        shape = Linear(n, k, float(share), rows)
        found.append(predict(card.rated, shape, tokens, _NUMBERS[config], assume).microseconds)
    if DENSE_PATH in row:
        found.append(dense_path_time(card.rated, Linear(n, k, 0.9, rows), tokens, assume))
    return found


def _clocks(rows: Sequence[Row]) -> dict[str, float] | None:
    """Medians over all rows, or None where nvidia-smi was not there."""
    found = [row["sensors"] for row in rows if row.get("sensors", {}).get("sm_mhz")]
    if not found:
        return None
    return {name: median(one[name] for one in found) for name in ("sm_mhz", "memory_mhz") if name in found[0]}


def _first(rows: Sequence[Row], stage: str) -> Row:
    for row in rows:
        if row["stage"] == stage:
            return row
    raise ValueError(f"the file has no row of the stage {stage!r}: it is not from run.py")


if __name__ == "__main__":
    sys.exit(main())
