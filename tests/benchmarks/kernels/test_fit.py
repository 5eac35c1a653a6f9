"""The fit finds the assumptions behind synthetic rows, and writes a calibration that plans take."""

import json
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from patch_compile.errors import PatchCompileError
from patch_compile.planning.cards import card_of
from patch_compile.planning.measured import measured_cards
from patch_compile.planning.roofline.assumptions import ASSUMED
from tests.benchmarks.kernels.synthetic_rows import (
    ABOUT,
    CARD,
    TRUE,
    fit,
    other_rows,
    product_rows,
    sweep_rows,
    written_rows,
)

SHIPPED = Path(__file__).parents[3] / "patch_compile" / "planning" / "shipped"
MHZ = 900 * CARD.rated.clock  # sustained, of 1000 by the data sheet


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder of kept rows, empty in place of the repository's."""
    monkeypatch.setattr(fit, "KEPT", tmp_path / "kept")
    return tmp_path / "kept"


def test_plans_take_what_was_fitted(tmp_path, capsys):
    assert card_of("a100-80").measured is None
    assert fit.main([str(written_rows(tmp_path / "gpu.jsonl", product_rows()))]) == 0
    said = capsys.readouterr().out
    assert "bandwidth = 0.8\n" in said and "tensor = 0.7\n" in said and "launch = 2\n" in said
    assert "turn stays: no row of the sweep" in said
    card = card_of("a100-80")
    assert card.measured.gpu == "NVIDIA A100-SXM4-80GB" and card.measured.own and not card.measured.shipped
    assert (card.assume.bandwidth, card.assume.launch) == pytest.approx((0.8, 2.0), rel=0.03)
    assert card.measured.error["after"] < 0.01 < card.measured.error["before"]


def test_the_clock_is_measured_not_fitted(tmp_path):
    rows = fit.read_rows(written_rows(tmp_path / "gpu.jsonl", product_rows(), clock=MHZ))
    found = fit.calibration(rows)
    assert found.assumptions["clock"] == pytest.approx(0.9)
    assert found.clocks == {"sm_mhz": pytest.approx(MHZ), "memory_mhz": 8000.0}


def test_a_slabs_clocks_are_compared_with_the_simulated(tmp_path, capsys):
    """The kernels' loop takes 1.4 times its simulated clocks, and all that the hybrid kernels do 1 / 0.9 times as long."""
    true = replace(TRUE, clock=0.9, hybrid=0.9, turn=1.4, tensor=0.97)
    path = written_rows(tmp_path / "gpu.jsonl", product_rows(true), sweep_rows(true), clock=MHZ)
    assert fit.main([str(path)]) == 0
    said = capsys.readouterr().out
    found = {(slab.config, slab.kind): slab for slab in fit.slabs(fit.read_rows(path), true)}
    for name, kind in (("int4-decode-64", "dense"), ("int4-decode-64", "2:4"), ("int4-mid-64", "2:4")):
        slab = found[name, kind]
        assert slab.limit == "issue" and slab.ratio == pytest.approx(1.4 / 0.9, rel=0.03)
        assert f"{name}, {kind}: a slab takes {slab.measured:.0f} clocks, simulated {slab.simulated}" in said
    swept = [row for row in sweep_rows(true) if row["key"].get("config") == "decode-128"]
    assert 0 < found["decode-128", "dense"].rows < len(swept)  # DRAM or the launch limits the other rows
    assume = card_of("a100-80").assume
    assert (assume.turn, assume.hybrid, assume.clock) == pytest.approx((1.4, 0.9, 0.9), rel=0.04)


def test_slow_tensor_cores_are_no_slow_loop(tmp_path):
    """By the data sheet the loop limits `prefill-128`, with the tensor rate of these rows it does not."""
    path = written_rows(tmp_path / "gpu.jsonl", product_rows(), sweep_rows(), clock=MHZ / 0.9)
    found = fit.calibration(fit.read_rows(path))
    assert found.assumptions["turn"] == pytest.approx(1, rel=0.03)


def test_unrunnable_loops_are_refused(tmp_path, capsys):
    slow = sweep_rows(replace(TRUE, turn=6.0))
    path = written_rows(tmp_path / "gpu.jsonl", product_rows(), slow, clock=MHZ / 0.9)
    assert fit.main([str(path)]) == 1
    assert "A slab takes 6 times its simulated clocks" in capsys.readouterr().err
    assert card_of("a100-80").assume == ASSUMED


def test_kept_rows_make_the_card_of_everyone(tmp_path, kept, capsys):
    parts = [list(part) for part in (product_rows(), islice(sweep_rows(), 40), other_rows())]
    path = written_rows(tmp_path / "gpu.jsonl", *parts, clock=MHZ)
    assert fit.main([str(path), "--keep"]) == 0
    (file,) = kept.iterdir()
    rows = fit.read_rows(file)
    assert file.name == "a100-80.jsonl" and f"kept {len(rows)} rows in {file}" in capsys.readouterr().out
    assert rows[0]["about"] == ABOUT and rows[0]["clocks"] == {"sm_mhz": MHZ, "memory_mhz": 8000.0}
    written = json.loads(json.dumps([row for part in parts for row in part if row["stage"] != "trying"]))
    assert rows[1:] == written  # as they were, without sensors
    card = card_of("a100-80")
    assert card.measured.shipped and card.measured.date == rows[0]["date"]
    assert card.assume.clock == pytest.approx(0.9) and card.assume.bandwidth == pytest.approx(0.8, rel=0.03)
    before, measured = file.read_bytes(), card.measured
    assert fit.main([str(file), "--keep"]) == 0  # again, by the kept rows
    assert file.read_bytes() == before and card_of("a100-80").measured == measured


def test_rows_of_another_gpu_are_not_kept(tmp_path, kept, capsys):
    fit.keep(fit.read_rows(written_rows(tmp_path / "1.jsonl", product_rows(), clock=MHZ)))
    before = (kept / "a100-80.jsonl").read_bytes()
    other = written_rows(tmp_path / "2.jsonl", product_rows(), about=ABOUT | {"gpu": "NVIDIA A100 80GB"})
    assert fit.main([str(other), "--keep"]) == 1
    said = capsys.readouterr().err
    assert "has rows of NVIDIA A100-SXM4-80GB, and these are of NVIDIA A100 80GB" in said
    assert (kept / "a100-80.jsonl").read_bytes() == before


def test_rows_without_a_fit_are_kept(tmp_path, kept, capsys):
    about = ABOUT | {"gpu": "NVIDIA A10G", "capability": [8, 6]}  # which the row of an A6000 stands for
    path = written_rows(tmp_path / "gpu.jsonl", sweep_rows(), about=about)
    assert fit.main([str(path), "--keep"]) == 1
    assert "not enough for a calibration" in capsys.readouterr().err
    assert [file.name for file in kept.iterdir()] == ["nvidia-a10g.jsonl"]


def test_shipped_cards_are_fits_of_the_kept_rows(monkeypatch):
    """When this fails, run `fit.py --keep` with each file of kept rows."""
    monkeypatch.setattr("patch_compile.planning.measured.shipped_folder", lambda: SHIPPED)
    shipped, fits = {card.gpu: card for card in measured_cards()}, {}
    for file in fit.KEPT.glob("*.jsonl"):
        with suppress(PatchCompileError):  # a part of the stages may not do for a fit
            found = fit.calibration(fit.read_rows(file))
            fits[found.gpu] = found
    assert set(shipped) == set(fits)
    for gpu, found in fits.items():
        assert shipped[gpu].shipped and shipped[gpu].date == found.date
        assert shipped[gpu].assumptions == pytest.approx(found.assumptions, rel=1e-3)


@pytest.mark.parametrize(
    ("about", "said"),
    [
        (ABOUT | {"gpu": "Quadro", "capability": [7, 5]}, "no data sheet for Quadro"),
        (None, "not from run.py"),
    ],
)
def test_rows_that_fit_no_card_are_refused(tmp_path, capsys, about, said):
    path = tmp_path / "gpu.jsonl"
    path.write_text(
        json.dumps({"stage": "machine", "key": {}, "about": about} if about else {"stage": "x"}) + "\n"
    )
    assert fit.main([str(path)]) == 1
    assert said in capsys.readouterr().err
