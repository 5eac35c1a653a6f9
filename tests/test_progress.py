"""Clocks of a stage and its phases, and the lines that a terminal and a pipe get."""

import io
import re
import threading
import time

import pytest
from rich.console import Console

from masklearn.learning import LearnRecipe
from masklearn.traits import METHODS
from patch_compile.progress import Progress, StageClock
from tests.work import until

TIME = r"\d+:\d\d:\d\d"


class Now:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def now() -> Now:
    return Now()


def test_each_phase_has_its_own_clock(now: Now) -> None:
    clock = StageClock(now=now)
    now.time += 5
    clock.update("reading text", 9000, 9000)
    for done in (7, 14):
        now.time += 10
        clock.update(f"solving, output error 0.0{done}", done, 210)
    assert clock.seconds == 25 and clock.phase_seconds == 20  # solving began where reading ended
    assert clock.what == "solving, output error 0.014" and clock.count == "14/210"
    now.time += 3
    assert clock.phase_seconds == 23


def test_remaining_time_counts_down_by_phase(now: Now) -> None:
    clock = StageClock(now=now)
    clock.update("reading text", 100, 100)
    now.time += 10
    clock.update("solving", 10, 100)
    assert clock.left() == (90, False)
    now.time += 4
    assert clock.left() == (86, False)
    now.time += 60  # the next block takes longer than the first: only it is overdue
    assert clock.left() == (80, False)
    now.time -= 34
    clock.update("solving", 20, 100)
    assert clock.left() == (80 * 3, False)  # the first block took 10 s, and the second one 30 s


def test_resumed_phases_are_measured_from_resumption(now: Now) -> None:
    clock = StageClock(now=now)
    now.time += 2
    clock.update("repair: kl 0.5", 501, 1000)
    now.time += 2
    clock.update("repair: kl 0.4", 502, 1000)
    assert clock.left() == (2 * 498, False)


def test_coming_phases_bound_the_time(now: Now) -> None:
    clock = StageClock({"scoring": "", "solving": "scoring"}, now)
    now.time += 5
    clock.update("scoring", 5, 10)
    assert clock.left() == (15, True)  # 5 s of scoring, and solving takes at least as long as all of it
    assert clock.line() == "phase 1 of 2: scoring, 5 of 10, 0:00:05 so far, at least 0:00:15 left"
    now.time += 5
    clock.update("scoring", 10, 10)
    now.time += 4
    assert clock.left() == (6, True)
    now.time += 26
    assert clock.left() is None  # nothing of solving is measured
    assert (
        clock.what == "solving" and clock.place == "2/2" and clock.count == "" and clock.phase_seconds == 30
    )
    assert clock.line() == "phase 2 of 2: solving, 0:00:30 so far"
    clock.update("solving, output error 0.01", 1, 10)
    assert clock.left() == (9 * 30, False)
    assert (
        clock.line()
        == "phase 2 of 2: solving, output error 0.01, 1 of 10, 0:00:30 so far, about 0:04:30 left"
    )


def test_skipped_and_unknown_phases_keep_the_total(now: Now) -> None:
    clock = StageClock({"rounding inputs": "", "scoring": "", "solving": "", "rounding": ""}, now)
    places = []
    for what in (
        "reading text", "rounding inputs", "rounding inputs, 2", "smoothing", "solving, error 0.1", "rounding: 0.1",
    ):  # fmt: skip
        clock.update(what, 1, 2)
        places.append(clock.place)
    assert places == ["1/5", "2/5", "2/5", "2/5", "4/5", "5/5"]


def test_named_steps_make_a_phase(now: Now) -> None:
    clock = StageClock(now=now)
    for done, tensor in enumerate(("model.embed", "model.layers.0.q_proj", "lm_head"), start=1):
        now.time += 2
        clock.update(tensor, done, 4)
    assert clock.phase_seconds == 6 and clock.left() == (2, False)


def test_phases_that_alternate_keep_their_clocks(now: Now) -> None:
    """TensorRT's phases contain each other."""
    clock = StageClock(now=now)
    clock.update("Building", 0, 4)
    for done in range(1, 3):
        for tactic in range(1, 3):
            now.time += 1
            clock.update("Tactics", tactic, 2)
        clock.update("Building", done, 4)
    assert clock.phase_seconds == 4 and clock.left() == (4, False)


@pytest.mark.parametrize("settings", [
    {"method": "oneshot"}, {"method": "oneshot", "model": "bert"}, {"method": "wanda"},
    {"method": "oneshot", "criterion": "raw", "repair": "none"},
    {"method": "magnitude"}, {"method": "sparsegpt"}, {"method": "patch-tile"},
    {"method": "sparsegpt", "weights": "w8a8,int8"}, {"method": "magnitude", "weights": "w8a8"},
], ids=lambda settings: "-".join(settings.values()))  # fmt: skip
def test_recipes_name_the_coming_phases(settings: dict[str, str], make_model, text_file, tmp_path) -> None:
    model = settings.get("model", "llama")
    from masklearn.learning import learn

    quick = {"ratio": 0.4, "tile": (16, 16), "calib": str(text_file), "windows": 2, "length": 16}
    trained = {"steps": 1, "batch": 1, "prior": "magnitude", "device": "cpu"}
    recipe = LearnRecipe(**quick, **trained, **{k: v for k, v in settings.items() if k != "model"})
    recipe = recipe.model_copy(update={"repair_steps": 1})
    phases = recipe.phases(loss=model == "llama")
    seen: list[str] = []
    clock, totals = StageClock(phases), set[str]()

    def update(what: str, done: int, total: int) -> None:
        seen.append(what)
        clock.update(what, done, total)
        totals.add(clock.place.partition("/")[2])

    learn(make_model(model), recipe, tmp_path / "scratch", update)
    begun = [next((i for i, what in enumerate(seen) if what.startswith(name)), None) for name in phases]
    assert phases and None not in begun, (phases, seen)
    assert begun == sorted(begun)
    assert METHODS[recipe.method].solves == ("solving" in phases)
    assert len(totals) == 1


def test_pipes_get_lines_during_stages() -> None:
    said, threads = io.StringIO(), threading.active_count()
    progress = Progress(Console(file=said, width=20), every=0.05)
    with progress.stage("masks") as update:
        update("solving, output error 0.013", 7, 210)
        until(lambda: said.getvalue().count("\n") == 2, said.getvalue)
    *lines, last = said.getvalue().splitlines()
    line = rf"masks: solving, output error 0\.013, 7 of 210, {TIME} so far, about {TIME} left"
    assert all(re.fullmatch(line, one) for one in lines[-2:]) and re.fullmatch(r"masks: \d+\.\d s", last)
    assert threading.active_count() == threads  # nothing speaks after the stage


def test_a_line_comes_no_more_often_than_asked() -> None:
    said = io.StringIO()
    with Progress(Console(file=said), every=3600).stage("masks"):
        time.sleep(0.2)
    assert said.getvalue().count("\n") == 1


def test_silent_stages_show_life() -> None:
    said = io.StringIO()
    with Progress(Console(file=said), every=0.05).stage("pruned reference"):
        until(lambda: "\n" in said.getvalue(), "nothing is said")
    assert re.match(rf"pruned reference: {TIME} so far\n", said.getvalue())


def test_an_error_ends_the_lines() -> None:
    said, threads = io.StringIO(), threading.active_count()
    progress = Progress(Console(file=said), every=3600)
    with pytest.raises(ValueError), progress.stage("masks"):
        raise ValueError
    assert threading.active_count() == threads
    assert not said.getvalue() and not progress.seconds


@pytest.mark.parametrize("width", [60, 80])
def test_bars_fit_both_clocks(width: int) -> None:
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, width=width, color_system=None)
    with Progress(console).stage("masks", ahead={"scoring": "", "solving": "scoring"}) as update:
        update("scoring", 105, 210)
        until(lambda: re.search(rf"105/210 {TIME} scoring", said.getvalue()) is not None, said.getvalue)
        update("solving, output error 0.0134 of the output's energy, and so on", 105, 210)
        until(lambda: re.search(rf"{TIME}, {TIME} left solving", said.getvalue()) is not None, said.getvalue)
    shown = said.getvalue()
    frames = [
        line for line in shown.replace("\x1b[2K", "\n").replace("\r", "\n").splitlines() if "left" in line
    ]
    assert frames and all(len(line) <= width for line in frames)
