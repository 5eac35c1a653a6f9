"""The part of the page with measured times says what the kept rows say."""

import importlib
import re

import pytest

from benchmarks.page_part import renewed
from patch_compile.planning.roofline.assumptions import ASSUMED
from tests.benchmarks.kernels.synthetic_rows import (
    CARD,
    decoder_rows,
    fit,
    product_rows,
    sweep_rows,
    written_rows,
)
from tests.planning.roofline.test_roofline import PAGE

measured_page = importlib.import_module("measured_page")


@pytest.fixture
def keep(tmp_path, monkeypatch):
    """keep(*parts) writes these rows to a folder of kept rows, in place of the repository's."""
    monkeypatch.setattr(fit, "KEPT", tmp_path / "kept")

    def of(*parts, **about):
        fit.keep(fit.read_rows(written_rows(tmp_path / "gpu.jsonl", *parts, **about)))

    return of


def cells(part, first, second):
    """Cells of the line that begins with these two."""
    (line,) = (line for line in part.splitlines() if line.startswith(f"| {first} | {second} |"))
    return line.strip("| ").split(" | ")[2:]


def test_the_page_is_that_of_the_kept_rows():
    """When this fails, run `make docs`."""
    page = PAGE.read_text()
    assert renewed(page, "measured", measured_page.markdown()) == page


def test_without_rows_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(fit, "KEPT", tmp_path)
    assert measured_page.markdown() == "Nothing has been measured yet."


def test_every_stage_has_its_prediction(keep):
    rows = list(product_rows())
    keep(rows, sweep_rows(), decoder_rows(), clock=1e3 * CARD.rated.clock)
    part = measured_page.markdown()
    assert part.startswith("### NVIDIA A100-SXM4-80GB\n\nMeasured on 20")
    assert "SM clock 1410 MHz, kernels 0a1b. The GPU copies 1500 GB/s, reads 1700 GB/s" in part
    assert re.search(
        r"miss 189 times of products by \d+% \(median\), and by 0% with bandwidth 0\.80.* turn 1\.0\d\.", part
    )
    row = next(row for row in rows if row["key"]["shape"] == [4096, 4096] and row["key"]["tokens"] == 16)
    dense = fit.predicted_times(row, CARD, ASSUMED)[0]
    assert cells(part, "4096×4096", "16")[0] == f"{dense:.1f} / {1e6 * row['cublas']:.1f}"
    assert len(cells(part, "4096×4096", "16")) == 7  # and six shares
    simulated, _, limit, measured, ratio, *_ = cells(part, "int4-decode-64", "2:4")
    assert limit == "issue" and float(ratio) == pytest.approx(1, abs=0.03)
    assert float(ratio) == pytest.approx(int(measured) / int(simulated), abs=0.01)
    assert re.search(r"\| dense \| [\d.]+ / 200\.00 \| [\d.]+ / 20\.000 \| \d+ / 742 \|", part)
    assert re.search(r"\| hybrid, ratio 0\.35 \| [\d.]+ / 160\.00 \|", part)


def test_the_predicted_decoder_is_the_planners(keep):
    keep(decoder_rows())
    part = measured_page.markdown()
    times = measured_page.predict_model(CARD.rated, measured_page.MODELS["LLaMA-2-7B"], 0.35).times
    step = times.decode.planned_ms / 127
    assert f"| hybrid, ratio 0.35 | {times.prefill.planned_ms:.2f} / 160.00 | {step:.3f} / 16.000 |" in part
    assert "The rows do not calibrate the card" in part and "Products" not in part and "a slab" not in part
