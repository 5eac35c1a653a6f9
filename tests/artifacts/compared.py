"""Comparisons of builds, as `compare` gives them."""

from collections.abc import Sequence
from typing import Any

from patch_compile.artifacts.bench import Library, Phase
from patch_compile.artifacts.compare import (
    DENSE,
    Against,
    BuildRow,
    ComparedAxis,
    CompareReport,
    Measure,
    MeasuredSpeeds,
    PredictedFor,
    PredictedSpeeds,
    QualityOfAll,
    TimedPlace,
    TimedSize,
)
from patch_compile.artifacts.manifest import ModelOrigin
from patch_compile.artifacts.prediction import CardRow, Workload
from patch_compile.report.compare import Spot, beaten_by


def compared(
    losses: Sequence[float],
    values: Sequence[float],
    dense: float,
    against: Against = Against.SPEED,
    methods: Sequence[str] = ("wanda",),
    **changed: Any,
) -> CompareReport:
    """Builds r0, r1, … with these losses, at these values of an axis where the dense model is at 1.

    dense: perplexity of the dense model, 0 for builds that are compared by the error of their outputs.
    """
    each = list(zip((f"r{i}" for i in range(len(losses))), losses, values, strict=True))
    spots = [Spot(name, against.sign * value, loss) for name, loss, value in each]
    beaten = beaten_by([Spot(DENSE, against.sign, dense), *spots])
    rows = [
        BuildRow(
            name=name,
            path=f"/builds/{name}",
            method=methods[i % len(methods)],
            permuted=False,
            repaired=False,
            ratio=0.5,
            kinds={"2:4": 1.0},
            bytes_per_weight=1.125,
            quality=loss,
            increase=loss / dense - 1 if dense else None,
            bytes=229_000_000,
            predicted=PredictedSpeeds(prefill=0.97, decode=1.31, end_to_end=1.28),
            measured={Phase.PREFILL: 0.91, Phase.DECODE: value},
            at=value,
            beaten_by=beaten[name],
        )
        for i, (name, loss, value) in enumerate(each)
    ]
    size = TimedSize(batch=1, tokens=128)
    place = TimedPlace(device="NVIDIA RTX A6000", library=Library.TENSORRT, version="11.0")
    report = CompareReport(
        model=ModelOrigin(path="/models/m", sha256="ab" * 32),
        quality=QualityOfAll(
            measure=Measure.PERPLEXITY if dense else Measure.OUTPUT_ERROR, on="text", dense=dense
        ),
        axis=ComparedAxis(against=against, phase=Phase.DECODE, dense=1.0),
        predicted_for=PredictedFor(
            card=CardRow(name="A6000"), workload=Workload(batch=1, prompt=128, generated=128)
        ),
        measured=MeasuredSpeeds(place=place, sizes={Phase.PREFILL: size, Phase.DECODE: size}),
        builds=tuple(rows),
        dense_bytes=330_000_000,
        dense_beaten_by=beaten[DENSE],
        pareto=tuple(row.name for row in rows if not row.beaten_by),
        left_out=(),
        files=(),
    )
    return report.model_copy(update=changed)
