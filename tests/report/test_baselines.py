"""Baselines that beat a result, in words."""

from masklearn.quality.record import BaselineRow, BesideBaselines
from patch_compile.report.baselines import beaten_lines


def row(name: str, ratio: float, value: float) -> BaselineRow:
    return BaselineRow(name=name, ratio=ratio, perplexity=value, seconds=1.0, deployable=True)


def beside(*baselines: BaselineRow, beaten_by: tuple[str, ...]) -> BesideBaselines:
    rows = (row("wanda", 0.35, 90.0), *baselines)
    return BesideBaselines(rows=rows, beaten_by=beaten_by, windows=8, length=1024, dtype="float32")


def test_worse_than_ffn_only_is_said_with_the_figures() -> None:
    (line,) = beaten_lines(beside(row("dense", 0, 22), row("ffn-only", 0.375, 80), beaten_by=("ffn-only",)))
    assert line.startswith(
        "wanda at ratio 0.350 is worse than FFN-only 2:4 at 0.375 (perplexity 90.00 against 80.00): prune"
    )


def test_only_baselines_that_beat_the_result_are_named() -> None:
    found = beside(row("ffn-only", 0.2, 95), row("random-tiles", 0.35, 39), beaten_by=("random-tiles",))
    assert list(beaten_lines(found)) == ["wanda is worse than random-tiles at no higher ratio"]


def test_bytes_are_said_where_they_are_known() -> None:
    rows = (row("oneshot", 0.25, 40.0), row("uniform-8:16", 0.5, 39.0))
    rows = tuple(
        one.model_copy(update={"bytes_per_weight": taken})
        for one, taken in zip(rows, (1.625, 1.125), strict=True)
    )
    found = BesideBaselines(rows=rows, beaten_by=("uniform-8:16",), windows=8, length=1024, dtype="float32")
    (line,) = beaten_lines(found)
    assert (
        line
        == "oneshot is worse than uniform-8:16 and takes as many bytes or more (1.625 a weight against 1.125)"
    )
