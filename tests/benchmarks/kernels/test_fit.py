"""The fit finds what made synthetic rows, and writes a calibration that plans take."""

import importlib
import json
from dataclasses import replace

import pytest

from patch_compile.hardware.cards import card_named
from patch_compile.plan.cards import PlanCard, card_of
from patch_compile.plan.roofline.assumptions import ASSUMED
from tests.plugins.host_kernel import BENCH

assert BENCH.is_dir()  # host_kernel has put it on the path
fit, products, problems = map(importlib.import_module, ("fit", "products", "problems"))

A6000 = PlanCard(card_named("A6000"))
TRUE = replace(ASSUMED, bandwidth=0.8, tensor=0.7, launch=2.0)
ABOUT = {"gpu": "NVIDIA RTX A6000", "capability": [8, 6], "driver": "580.1", "torch": "2.11"}


def measured(tmp_path, clock=None):
    """A file of rows as a GPU with the assumptions TRUE would give them."""
    lines = [{"stage": "machine", "key": {}, "about": ABOUT}]
    for n, k in ((4096, 4096), (11008, 4096), (896, 896)):
        for tokens in problems.TOKENS:
            schedule = {}
            for share in products.SHARES:
                made = fit.Linear(n, k, share, problems.panel_rows((n, k)))
                chosen = fit.predict(A6000.rated, made, tokens, None, TRUE)
                schedule[str(share)] = [chosen.config, chosen.parts]
            row = {"stage": "products", "schedule": schedule}
            row["key"] = {"shape": [n, k], "tokens": tokens, "type": "float16"}
            dense, *hybrid = (t / 1e6 for t in fit._predicted(row, A6000, TRUE))
            row |= {"cublas": dense, "hybrid": dict(zip(schedule, hybrid, strict=True))}
            row["sensors"] = {"sm_mhz": clock, "memory_mhz": 8000.0} if clock else {}
            lines.append(row)
    path = tmp_path / "gpu.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_plans_take_what_was_fitted(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert card_of("a6000").measured is None
    assert fit.main([str(measured(tmp_path))]) == 0
    said = capsys.readouterr().out
    assert "bandwidth = 0.8\n" in said and "tensor = 0.7\n" in said and "launch = 2\n" in said
    card = card_of("a6000")
    assert card.measured.gpu == "NVIDIA RTX A6000" and card.measured.own
    assert (card.assume.bandwidth, card.assume.launch) == pytest.approx((0.8, 2.0), rel=0.03)
    assert card.measured.error["after"] < 0.01 < card.measured.error["before"]


def test_the_clock_is_measured_not_fitted(tmp_path):
    found = fit.calibration(fit.read_rows(measured(tmp_path, clock=900.0 * A6000.rated.clock)))
    assert found.assumptions["clock"] == pytest.approx(0.9)
    assert found.clocks == {"sm_mhz": pytest.approx(900 * A6000.rated.clock), "memory_mhz": 8000.0}


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
    assert fit.main([str(path), "--out", str(tmp_path)]) == 1
    assert said in capsys.readouterr().err
