"""The rows of the GPU benchmark fit into half an hour on a card, by the cost models: work is added up, nothing is timed."""

import importlib
from collections import Counter

import pytest

from patch_compile.hardware.cards import card_named
from patch_compile.planning.roofline.schedule import CONFIGS
from tests.plugins.host_kernel import BENCH

assert BENCH.is_dir()  # host_kernel has put it on the path
gpu, predicted, sweep = map(importlib.import_module, ("gpu", "predicted_seconds", "sweep"))


@pytest.fixture(scope="module")
def h100():
    return list(predicted.predicted_rows(card_named("H100")))


def test_all_rows_take_under_three_minutes(h100):
    assert sum(row.seconds for row in h100) < 180
    assert max(row.seconds for row in h100) < 5  # far below the deadline of a row


def test_every_stage_and_configuration_is_in_the_sum(h100):
    stages = Counter(row.stage for row in h100)
    assert set(stages) == {"sweep", "products", "epilogues", "decoder"}
    swept = {row.key["config"] for row in h100 if row.stage == "sweep"}
    assert swept == {c.name for c in CONFIGS if not c.gated and not c.name.startswith("all-")}


def test_only_a_chosen_stream_has_one_part(h100):
    streams = {c.name for c in CONFIGS if c.streams}
    parts = [row.key["parts"] for row in h100 if row.stage == "sweep" and row.key["config"] in streams]
    assert len(parts) > 1000 and min(parts) > 1


def test_few_slabs_are_timed_together():
    card = card_named("H100")
    kernels, device = predicted.PlannedKernels(card), predicted.Device(sms=card.sms)
    problem = predicted.problem_of(1, (640, 640), 64, (100, 0))
    assert 1 in sweep._parts(kernels, problem, device, 0)
    more = predicted.problem_of(1, (1280, 640), 64, (200, 0))
    assert 1 not in sweep._parts(kernels, more, device, 0)


@pytest.mark.parametrize(
    ("first", "copies", "launches"),
    [(1e-6, 2, 24), (1e-3, 2, 20), (0.17, 2, 3), (1e-6, 46, 46), (1e-3, 21, 21)],
)
def test_a_graph_takes_about_twenty_milliseconds(first, copies, launches):
    assert gpu.graph_launches(first, copies) == launches
    assert gpu.all_launches(first, copies) == 3 + 8 * launches


def test_the_command_prints_the_sum(capsys):
    assert predicted.main(["--card", "A6000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    seconds = [float(line.split()[-2]) for line in lines]
    assert lines[-1].startswith("all") and seconds[-1] == pytest.approx(sum(seconds[:-1]), abs=1)
