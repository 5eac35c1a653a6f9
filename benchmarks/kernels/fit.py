"""Fits the planner's assumptions to the rows that run.py measured on a GPU, and writes a file that `plan` reads.

    python benchmarks/kernels/fit.py gpu.jsonl [--keep]

Needs patch-compile, but no GPU. Prints the clocks that a slab takes, the fitted values, and the predictions' error before
and after. The file lies where `patch-compile plan` on this machine looks for calibrations, and plans for that GPU go by it
from then on. `--keep` is for the repository: it keeps the rows as benchmarks/kernels/measured/CARD.jsonl, and writes the
file into the package, for everyone who has no calibration of that GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
from problems import panel_rows
from rows import Row, measured, read_rows
from sweep import slab_clocks

from masklearn.masks.kinds.table import DENSE, TWO_FOUR
from patch_compile import PatchCompileError
from patch_compile.hardware.cards import RatedCard
from patch_compile.hardware.gpu import Gpu
from patch_compile.planning.cards import PlanCard, card_of_gpu
from patch_compile.planning.measured import MOST, MeasuredCard, file_stem
from patch_compile.planning.measured_fit import Fit, fit_assumptions
from patch_compile.planning.roofline.assumptions import Assumptions
from patch_compile.planning.roofline.launch_work import (
    rates_of,
    simulated_clocks,
    slab_limits,
    work_of,
)
from patch_compile.planning.roofline.linear_roofline import (
    DENSE_PATH,
    Linear,
    dense_path_time,
    dense_time,
    predict,
)
from patch_compile.planning.roofline.schedule import CONFIGS

KEPT = Path(__file__).resolve().with_name("measured")
_BACKEND = "the kernels' benchmark"
_NUMBERS = {config.name: number for number, config in enumerate(CONFIGS)}


class Slab(NamedTuple):
    """Clocks of an SM for a slab of a kind in a configuration.

    simulated: clocks by issue.py; limit: the resource that the planner predicts to be the slowest; error: median relative
    miss of the fit to `rows` rows of the sweep.
    """

    config: str
    kind: str
    measured: float
    simulated: int
    limit: str
    error: float
    rows: int

    @property
    def ratio(self) -> float:
        """Measured over simulated clocks."""
        return self.measured / self.simulated

    def __str__(self) -> str:
        return (
            f"{self.config}, {self.kind}: a slab takes {self.measured:.0f} clocks, simulated {self.simulated}, ratio "
            f"{self.ratio:.2f}; limited by {self.limit}; ± {self.error:.0%} over {self.rows} rows"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Fit, print and write; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path, help="the file that run.py wrote")
    parser.add_argument("--keep", action="store_true", help="keep the rows and the calibration for everyone")
    asked = parser.parse_args(argv)
    try:
        rows = read_rows(asked.rows)
        if asked.keep:
            rows = keep(rows)
        found = calibration(rows)
        _print(rows, found)
        path = found.ship(_stem(rows)) if asked.keep else found.save()
    except (PatchCompileError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {path}")
    return 0


def _print(rows: Sequence[Row], found: MeasuredCard) -> None:
    for slab in slabs(rows, found.assume):
        print(slab)
    for name, value in found.assumptions.items():
        print(f"{name} = {value:.3g}")
    for name, why in found.left.items():
        print(f"{name} stays: {why}")
    before, after = (f"{found.error[when]:.1%}" for when in ("before", "after"))
    print(f"median error of {found.times} times: {before} as assumed, {after} as fitted")


def keep(rows: Sequence[Row]) -> list[Row]:
    """Write the rows to a file of their card in `KEPT`, in place of earlier rows of this GPU, and return them.

    The row of the machine gets the date, and the medians of the clocks in place of each row's sensors. Raises ValueError
    if the file has rows of another GPU, or if the table of cards has no row for this GPU.
    """
    path, gpu = KEPT / f"{_stem(rows)}.jsonl", first(rows, "machine")["about"]["gpu"]
    if path.exists() and (other := first(read_rows(path), "machine")["about"]["gpu"]) != gpu:
        raise ValueError(f"{path} has rows of {other}, and these are of {gpu}")
    kept = list(_without_sensors(rows))
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    print(f"kept {len(kept)} rows in {path}")
    return kept


def _without_sensors(rows: Sequence[Row]) -> Iterator[Row]:
    for row in rows:
        if row["stage"] == "machine":
            yield row | {"date": _date(rows), "clocks": median_clocks(rows)}
        elif row["stage"] != "trying":
            yield {name: value for name, value in row.items() if name != "sensors"}


def calibration(rows: Sequence[Row]) -> MeasuredCard:
    """The calibration of the GPU that these rows are from.

    Raises PatchCompileError if they do not determine a calibration, ValueError if the table does not have their card.
    """
    card, about = card_of_rows(rows), first(rows, "machine")["about"]
    found, count = fit(rows, card)
    return MeasuredCard(
        gpu=about["gpu"],
        card=card.name,
        own=not card.stands_for,
        clocks=median_clocks(rows),
        driver=about["driver"],
        backend=_BACKEND,
        version=about["torch"],
        date=_date(rows),
        model="the linears of benchmarks/kernels/problems.py",
        assumptions=found.fitted,
        left=found.left,
        times=count,
        error={"before": found.before, "after": found.after},
    )


def card_of_rows(rows: Sequence[Row]) -> PlanCard:
    """The card of the GPU that these rows are from. Raises ValueError if the table of cards has no data sheet for it."""
    about = first(rows, "machine")["about"]
    card = card_of_gpu(Gpu(about["gpu"], tuple(about["capability"])))
    if card is None:
        raise ValueError(f"the table of cards has no data sheet for {about['gpu']} or its architecture")
    return card


def fit(rows: Sequence[Row], card: PlanCard) -> tuple[Fit, int]:
    """Fit to the times of the stage "products"; returns the fit and the number of times.

    The clock and the turn of a slab are measured, not fitted. A first fit without the turn tells which slabs the kernels'
    loop limits; the turn is measured on these, and holds for what the hybrid kernels reach by the second fit.
    """
    products = [row for row in measured(rows, "products") if row["key"]["type"] == "float16"]
    times = [time for row in products for time in times_of(row)]
    clocks = median_clocks(rows)
    sustained = clocks["sm_mhz"] / (1e3 * card.rated.clock) if clocks else None

    def predicted(assume: Assumptions) -> list[float]:
        return [time for row in products for time in predicted_times(row, card, assume)]

    first_fit = fit_assumptions(times, predicted, sustained)
    ratio, why = _turn(slabs(rows, first_fit.assume))
    if why:
        return replace(first_fit, left=first_fit.left | {"turn": why}), len(times)
    if not 1 / MOST < ratio * first_fit.assume.hybrid < MOST:
        raise PatchCompileError(
            f"A slab takes {ratio:.2g} times its simulated clocks",
            "No card is that far from the simulation.",
            "Check that nothing else runs on the GPU, and time again.",
        )

    def with_turn(assume: Assumptions) -> Assumptions:
        return replace(assume, turn=ratio * assume.hybrid)

    found = fit_assumptions(times, lambda assume: predicted(with_turn(assume)), sustained)
    assume = with_turn(found.assume)
    fitted = found.fitted | {"turn": assume.turn}
    return replace(found, assume=assume, fitted=fitted, before=first_fit.before), len(times)


def _turn(found: Sequence[Slab]) -> tuple[float, str]:
    """Median of measured over simulated clocks where the loop is a slab's limit, or 1 and the reason why it is not known."""
    ratios = [slab.ratio for slab in found if slab.limit == "issue"]
    if not ratios:
        return 1.0, "no row of the sweep is limited by the kernels' loop, or the clocks were not recorded"
    return median(ratios), ""


def slabs(rows: Sequence[Row], assume: Assumptions) -> list[Slab]:
    """Clocks of a slab by configuration and kind, from rows of the sweep that neither DRAM nor the launch limits.

    Empty without recorded clocks.
    """
    card, clocks = card_of_rows(rows).rated, median_clocks(rows)
    limited = [row for row in measured(rows, "sweep") if _limited_by_sm(row, card, assume)]
    if not clocks or not limited:
        return []
    tokens = {row["key"]["config"]: row["block_tokens"] for row in limited}
    of_slabs = [_of_slabs(row, card, assume) for row in limited]
    fitted = slab_clocks(of_slabs, first(rows, "rates")["sms"], clocks["sm_mhz"], tokens)
    found = []
    for name, about in fitted.items():
        config = CONFIGS[_NUMBERS[name]]
        for kind, clock in ((DENSE, about["dense"]), (TWO_FOUR, about["sparse"])):
            limits = slab_limits(card, config, kind, config.tokens, assume)
            limit = max(limits, key=lambda one: limits[one])
            simulated = round(simulated_clocks(card, config, kind))
            if clock > 0:
                found.append(Slab(name, kind.name, clock, simulated, limit, about["error"], about["rows"]))
    return found


def _of_slabs(row: Row, card: RatedCard, assume: Assumptions) -> Row:
    """Returns a row of the sweep, less the planner's time for trips to L2, stores of Y and sums that parts share.

    These differ between rows of a configuration, and are no part of a slab.
    """
    key, rates = row["key"], rates_of(card, assume)
    config = CONFIGS[_NUMBERS[key["config"]]]
    problem = Linear(*key["shape"], key["share"], config.panel_rows, weights=config.weights).problem(
        key["tokens"]
    )
    # Twice the slabs take twice their clocks, and the rest once.
    twice = replace(problem, slabs=tuple(2 * count for count in problem.slabs))
    work, more = (work_of(card, config, one, key["parts"], assume) for one in (problem, twice))
    clocks = 2 * sum(work.clocks.values()) - sum(more.clocks.values())
    rest = work.edges + clocks / rates.clocks
    return row | {"seconds": row["seconds"] - rest / 1e6}


def _limited_by_sm(row: Row, card: RatedCard, assume: Assumptions) -> bool:
    """True if the planner predicts this row, with these parts, and neither bytes nor the launch are its limit.

    SMs must hold as many blocks as were simulated, or as few as take no longer.
    """
    key = row["key"]
    if (number := _NUMBERS.get(key["config"])) is None:
        return False
    config = CONFIGS[number]
    shape = Linear(*key["shape"], key["share"], config.panel_rows, weights=config.weights)
    found = predict(card, shape, key["tokens"], number, assume)
    if found.parts != key["parts"] or found.bound in ("bytes", "launch"):
        return False
    blocks = -(-(found.parts if config.streams else shape.problem(key["tokens"]).tiles(config)) // card.sms)
    return all(
        simulated_clocks(card, config, kind, blocks) == simulated_clocks(card, config, kind)
        for kind in (DENSE, TWO_FOUR)
    )


def times_of(row: Row) -> list[float]:
    """Measured microseconds of a row of the stage "products": dense, hybrid by share, and the dense path if it has it."""
    found = [row["cublas"], *row["hybrid"].values(), *([row[DENSE_PATH]] if DENSE_PATH in row else [])]
    return [1e6 * seconds for seconds in found]


def predicted_times(row: Row, card: PlanCard, assume: Assumptions) -> list[float]:
    """Predicted microseconds in the order of `times_of`. The hybrid product has the configuration that ran."""
    (n, k), tokens = row["key"]["shape"], row["key"]["tokens"]
    rows = panel_rows((n, k))
    found = [dense_time(card.rated, Linear(n, k, 0.0, rows), tokens, assume)[0]]
    for share, (config, _) in row["schedule"].items():
        shape = Linear(n, k, float(share), rows)
        found.append(predict(card.rated, shape, tokens, _NUMBERS[config], assume).microseconds)
    if DENSE_PATH in row:
        found.append(dense_path_time(card.rated, Linear(n, k, 0.9, rows), tokens, assume))
    return found


def median_clocks(rows: Sequence[Row]) -> dict[str, float] | None:
    """Medians of the clocks over all rows, which kept rows store. None without nvidia-smi."""
    if "clocks" in (machine := first(rows, "machine")):
        kept: dict[str, float] | None = machine["clocks"]
        return kept
    found = [row["sensors"] for row in rows if row.get("sensors", {}).get("sm_mhz")]
    if not found:
        return None
    return {name: median(one[name] for one in found) for name in ("sm_mhz", "memory_mhz") if name in found[0]}


def _date(rows: Sequence[Row]) -> str:
    """Time when the rows were kept, else the present time."""
    found: str = first(rows, "machine").get("date") or datetime.now(UTC).isoformat(timespec="seconds")
    return found


def _stem(rows: Sequence[Row]) -> str:
    card = card_of_rows(rows)
    return file_stem(card.stands_for or card.name)


def first(rows: Sequence[Row], stage: str) -> Row:
    """The first row of a stage. Raises ValueError if there is no such row."""
    for row in rows:
        if row["stage"] == stage:
            return row
    raise ValueError(f"the file has no row of the stage {stage!r}: it is not from run.py")


if __name__ == "__main__":
    sys.exit(main())
