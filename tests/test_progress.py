"""Clocks of a stage and its phases, and the lines that a terminal and a pipe get."""

import io
import re
import threading

import pytest
from rich.console import Console
from rich.progress import Progress as Bars

from masklearn.learning import LearnRecipe
from masklearn.traits import METHODS
from patch_compile.progress import Progress, Stage
from tests.work import until

TIME = r"\d+:\d\d:\d\d"


def stage(phases=()):
    return Stage(Bars(disable=True), "masks", phases)


def test_each_phase_begins_anew() -> None:
    one = stage()
    one.update("reading text", 9000, 9000)
    one.update("solving, output error 0.01", 7, 210)
    assert re.fullmatch(rf"masks: solving, output error 0\.01, 7 of 210, {TIME} so far", one.line())
    one.update("solving, output error 0.02", 14, 210)
    assert re.fullmatch(rf"masks: solving, .*, 14 of 210, {TIME} so far, about {TIME} left", one.line())
    one.update("rounding", 7, 210)  # as many units, fewer of them done
    assert "left" not in one.line()


def test_resumed_phases_are_measured_from_resumption(monkeypatch: pytest.MonkeyPatch) -> None:
    time = iter(range(1000, 2000, 2))
    one = Stage(Bars(disable=True, get_time=lambda: next(time)), "masks", ())
    for done in (501, 502, 503):
        one.update("repair: kl 0.5", done, 1000)
    assert 497 < one.bars.tasks[0].time_remaining < 5 * 497


def test_skipped_and_unknown_phases_keep_the_total() -> None:
    one, places = stage(("ordering", "scoring", "solving", "rounding")), []
    for what in (
        "reading text", "ordering", "ordering, 2", "smoothing", "solving, error 0.1", "rounding: 0.1",
    ):  # fmt: skip
        one.update(what, 1, 2)
        places.append(one.bars.tasks[0].fields["place"])
    assert places == ["", "1/4", "1/4", "1/4", "3/4", "4/4"]
    assert one.line().startswith("masks: phase 4 of 4: rounding: 0.1, 1 of 2, ")


@pytest.mark.parametrize("settings", [
    {"method": "oneshot"}, {"method": "oneshot", "model": "bert"}, {"method": "wanda"},
    {"method": "oneshot", "criterion": "raw", "repair": "none"},
    {"method": "magnitude"}, {"method": "sparsegpt"}, {"method": "patch-tile"},
    {"method": "sparsegpt", "weights": "w8a8"}, {"method": "magnitude", "weights": "w8a8"},
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

    def update(what: str, done: int, total: int) -> None:
        seen.append(what)

    learn(make_model(model), recipe, tmp_path / "scratch", update)
    begun = [next((i for i, what in enumerate(seen) if what.startswith(name)), None) for name in phases]
    assert phases and None not in begun, (phases, seen)
    assert begun == sorted(begun)
    assert METHODS[recipe.method].solves == ("solving" in phases)


def test_pipes_get_lines_during_stages() -> None:
    said, threads = io.StringIO(), threading.active_count()
    progress = Progress(Console(file=said, width=20), every=0.05)
    with progress.stage("masks") as update:
        update("solving, output error 0.012", 7, 210)
        update("solving, output error 0.013", 14, 210)
        until(lambda: said.getvalue().count("\n") == 2, said.getvalue)
    *lines, last = said.getvalue().splitlines()
    line = rf"masks: solving, output error 0\.013, 14 of 210, {TIME} so far, about {TIME} left"
    assert re.fullmatch(line, lines[-1]) and re.fullmatch(r"masks: \d+\.\d s", last)
    assert threading.active_count() == threads  # nothing speaks after the stage


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


def test_bars_fit_both_clocks() -> None:
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, width=60, color_system=None)
    with Progress(console).stage("masks", ("scoring", "solving")) as update:
        update("scoring", 105, 210)
        until(
            lambda: re.search(rf"1/2 .*105/210 {TIME} .*scoring", said.getvalue()) is not None, said.getvalue
        )
        update("solving, output error 0.0134 of the output's energy, and so on", 98, 210)
        update("solving, output error 0.0134 of the output's energy, and so on", 105, 210)
        until(
            lambda: re.search(rf"105/210 {TIME} {TIME} solving", said.getvalue()) is not None, said.getvalue
        )
    shown = said.getvalue()
    frames = [
        line for line in shown.replace("\x1b[2K", "\n").replace("\r", "\n").splitlines() if "105/210" in line
    ]
    assert frames and all(len(line) <= 60 for line in frames)
