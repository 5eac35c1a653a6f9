"""Measured cards are saved, found again for the same GPU, and used by plans."""

import json

import pytest
from click.testing import CliRunner

from patch_compile.cli.app import cli
from patch_compile.hardware.gpu import Gpu
from patch_compile.planning.cards import card_of, card_of_gpu
from patch_compile.planning.measured import MeasuredCard
from patch_compile.planning.roofline.assumptions import ASSUMED
from tests.planning.llama import LLAMA_2_7B, write_hollow_llama
from tests.refusals import refused

A6000, A10 = Gpu("NVIDIA RTX A6000", (8, 6)), Gpu("NVIDIA A10", (8, 6))
FITTED = {"bandwidth": 0.7, "tensor": 0.6}


@pytest.fixture
def folder(no_measured_cards):
    return no_measured_cards


def card(gpu: Gpu = A6000, **changed) -> MeasuredCard:
    about = {
        "gpu": gpu.name,
        "card": "A6000",
        "own": gpu is A6000,
        "clocks": {"sm_mhz": 1755.0, "memory_mhz": 8001.0},
        "driver": "580.82",
        "backend": "tensorrt",
        "version": "11.0.1",
        "date": "2026-11-25T12:00:00+00:00",
        "model": "llama-2-7b",
        "assumptions": FITTED,
        "left": {"launch": "these times hardly depend on it"},
        "times": 16,
        "error": {"before": 0.21, "after": 0.03},
    }
    return MeasuredCard(**(about | changed))


def test_measured_cards_match_gpu_and_name():
    card().save()
    for found in (card_of_gpu(A6000), card_of("a6000"), card_of("RTX A6000")):
        assert (found.assume.bandwidth, found.assume.tensor) == (0.7, 0.6)
        assert str(found) == "A6000 (calibrated by times measured on NVIDIA RTX A6000 on 2026-11-25)"
        assert hash(found) == hash(card_of_gpu(A6000))  # plans are cached by card


def test_a_calibration_of_another_gpu_is_not_applied():
    """An A10 has an A6000's architecture and no row of its own, but neither takes the other's calibration."""
    card().save()
    for found in (card_of("a10"), card_of_gpu(A10), card_of("sm86"), card_of("a6000,h100"), card_of("h100")):
        assert found.assume == ASSUMED and found.measured is None
    card(A10, assumptions={"bandwidth": 0.8}, date="2026-11-26").save()
    assert card_of_gpu(A10).assume.bandwidth == 0.8
    assert card_of("a6000").assume.bandwidth == card_of_gpu(A6000).assume.bandwidth == 0.7


def test_the_newest_calibration_counts(folder):
    card().save()
    card(assumptions={"bandwidth": 0.75}, date="2026-11-26").save()
    assert len(list(folder.iterdir())) == 1 and card_of("a6000").assume.bandwidth == 0.75
    card(driver="590.1", assumptions={"bandwidth": 0.65}, date="2026-11-20").save()
    assert len(list(folder.iterdir())) == 2 and card_of("a6000").assume.bandwidth == 0.75


def test_user_calibrations_precede_the_packages():
    card(assumptions={"bandwidth": 0.8, "turn": 1.5}, date="2026-12-24").ship("a6000")
    found = card_of("a6000")
    assert (found.assume.bandwidth, found.assume.turn) == (0.8, 1.5) and found.measured.shipped
    assert card_of_gpu(A10).measured is None
    card().save()  # earlier, but the user's own
    assert card_of("a6000").assume.bandwidth == 0.7 and not card_of("a6000").measured.shipped


@pytest.mark.parametrize("spoil", [
    lambda content: "{",
    lambda content: json.dumps(content | {"schema": 1}),
    lambda content: json.dumps(content | {"assumptions": {"bandwidth": 5.0}}),
    lambda content: json.dumps(content | {"assumptions": {"luck": 0.5}}),
    lambda content: json.dumps(content | {"assumptions": {"merged": True}}),
    lambda content: json.dumps({k: v for k, v in content.items() if k != "gpu"}),
    lambda content: "[]"
], ids=("no JSON", "version", "bounds", "unknown name", "type", "no GPU", "list"))  # fmt: skip
def test_a_file_that_is_no_calibration_is_named(spoil):
    path = card().save()
    path.write_text(spoil(json.loads(path.read_text())))
    with refused():
        card_of("a6000")


@pytest.fixture
def model(tmp_path):
    return write_hollow_llama(tmp_path / "llama", LLAMA_2_7B | {"num_hidden_layers": 2})


def planned(model):
    """Returns the text and the JSON of a plan for an A6000."""
    flags = [str(model), "--ratio", "0.4", "--target", "a6000"]
    said = CliRunner().invoke(cli.commands["plan"], [*flags, "--table"], catch_exceptions=False).stdout
    found = CliRunner().invoke(cli.commands["plan"], [*flags, "--json"], catch_exceptions=False).stdout
    return said, json.loads(found)


def test_a_plan_shows_what_it_goes_by(model):
    said, assumed = planned(model)
    assert "predicted, not measured" in said and "calibrated" not in said
    card().save()
    said, found = planned(model)
    assert "predicted on A6000 (calibrated by times measured on NVIDIA RTX A6000 on 2026-11-25)" in said
    assert "fitted to 16 times of llama-2-7b" in said and "bandwidth 0.70 instead of 0.84" in said
    assert "driver 580.82, tensorrt 11.0.1" in said and "predicted, not measured" not in said
    assert "comes with patch-compile" not in said and not found["card"]["calibration"]["shipped"]
    for phase, least in (("prefill", 1.3), ("decode", 1.15)):
        slower = found["whole"][phase]["dense_ms"] / assumed["whole"][phase]["dense_ms"]
        assert least < slower < 1.7  # 1/.60 and .84/.70 by the part that each bounds
