import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality.child import peak_gib, run
from benchmarks.quality.entries import (
    ALL_KINDS,
    AUTO,
    LARGE_RATIOS,
    NO_REPAIR,
    OWN_TEXT,
    PATCH,
    PERMUTED,
    RATIOS,
    entries,
    entries_of_large,
)
from benchmarks.quality.page import page
from benchmarks.quality.run import State, arguments, cells, main, sweep
from masklearn.baselines import Baseline
from masklearn.model.models import load_model
from masklearn.model.pretrained import load_tokenizer
from masklearn.quality.perplexity import perplexity
from masklearn.recipe import LearnRecipe
from masklearn.text.calibrate import first_windows
from tests.conftest import ModelMaker

SMALL = ["--tile", "16x16", "--windows", "6", "--length", "16", "--eval-windows", "2", "--eval-length", "20"]


@pytest.fixture
def command(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> list[str]:
    """A command line on a tiny model, with one text for both purposes."""
    out = ["--out", str(tmp_path / "page.md"), "--scratch", str(tmp_path / "runs")]
    return [str(make_model()), "--calib", str(text_file), "--eval", str(text_file), *SMALL, *out]


def row(method: str, ratio: float | None, value: float, seconds: float = 60.0, **more: Any) -> dict[str, Any]:
    about = {"method": method, "ratio": ratio, "tile": "64x64", "seed": 0, "deployable": True}
    about |= {"machine": "one, 2 cores", "date": "2026-11-25"}
    return about | {"reached": ratio or 0.5, "perplexity": value, "seconds": seconds, "peak_gib": 1.26} | more


def line(text: str, method: str, nth: int = 0) -> list[str]:
    found = [found for found in text.splitlines() if found.startswith(f"| {method} |")]
    return [cell.strip() for cell in found[nth].strip("|").split("|")]


def test_entries_are_valid_recipes() -> None:
    found = entries()
    for entry in found:
        LearnRecipe.parse(entry.settings)
    assert {entry.baseline for entry in found} - {None} == set(Baseline) - {Baseline.UNIFORM}
    for ratio in RATIOS:
        methods = [entry.method for entry in found if entry.ratio == ratio]
        assert methods.index(NO_REPAIR) < methods.index("oneshot, 8 min in all")
        assert {"oneshot + 30 min of repair", "oneshot + 30 min of repair" + PERMUTED} < set(methods)
    assert [entry.ratio for entry in found if entry.method == PATCH] == [0.35]
    permuted = [(entry.ratio, entry.settings["repair"]) for entry in found if entry.method.endswith(PERMUTED)]
    assert permuted == [(ratio, repair) for ratio in RATIOS for repair in ("none", *["distill"] * 2)]
    assert all(entry.settings["permute"] for entry in found if entry.method.endswith((PERMUTED, ALL_KINDS)))


def test_training_starts_from_a_row_of_the_table(command: list[str]) -> None:
    table = cells(arguments(command))
    names = {cell.key: cell.entry.method for cell in table}
    starts = {(cell.untrained().key, cell.untrained().entry.method) for cell in table if cell.entry.trains}
    assert starts <= names.items()
    assert {name for _, name in starts} == {NO_REPAIR, NO_REPAIR + PERMUTED, AUTO}


def test_large_models_have_rows_of_their_own(command: list[str]) -> None:
    found = entries_of_large()
    for entry in found:
        LearnRecipe.parse(entry.settings)
    assert [entry.ratio for entry in found if entry.method == NO_REPAIR + PERMUTED] == [*LARGE_RATIOS]
    table = cells(arguments([*command, "--large"]))
    assert [cell.entry for cell in table] == found
    starts = {(cell.untrained().key, cell.untrained().entry.method) for cell in table if cell.entry.trains}
    assert starts <= {(cell.key, cell.entry.method) for cell in table}
    assert len(starts) == 2  # 6:8 tiles have no row in 16 bits
    assert page([row("dense", None, 13.0)], arguments([*command, "--large"])).startswith("# Quality of ")


def test_types_are_compared_under_the_same_masks(command: list[str]) -> None:
    table = {(cell.entry.method, cell.entry.ratio): cell for cell in cells(arguments(command))}
    steps = "oneshot + 13 steps of repair"
    for ratio in RATIOS:
        found = [table[method, ratio] for method in (f"{NO_REPAIR}, w8a8", steps, f"{steps}, w8a8")]
        assert {cell.untrained().key for cell in found} == {table[NO_REPAIR, ratio].key}
        assert [cell.entry.settings["repair_steps"] for cell in found] == [0, 13, 13]
        assert [cell.entry.settings.get("weights") for cell in found] == ["w8a8", None, "w8a8"]
        assert all(cell.entry.repairs for cell in found)


def test_only_dependent_rows_are_remeasured(command: list[str]) -> None:
    table = cells(arguments([*command, "--tile", "8x8", "--seeds", "2"]))
    others = {cell.entry.method for cell in table if cell.settings["tile"] == "8x8"}
    assert others == {NO_REPAIR, "oneshot, 8 min in all"}
    again = [cell for cell in table if cell.settings["seed"] == 1]
    assert {cell.entry.method for cell in again} == {"sparsegpt 2:4", "ffn-only 2:4", NO_REPAIR}
    assert {cell.settings["tile"] for cell in again} == {"16x16"}


def test_rows_are_measured_in_own_processes(
    command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.quality.entries.RATIOS", (0.35,))
    only = ["--only", "dense", "unstr*"]
    assert main([*command, *only]) == 0
    state = json.loads((tmp_path / "page.json").read_text())
    rows = {(r["method"], r["ratio"]): r for r in state.values()}
    assert len(rows) == 2
    model = command[0]
    windows = first_windows(load_tokenizer(model), command[4], 20, 2)
    assert rows["dense", None]["perplexity"] == perplexity(load_model(model), windows)
    pruned = rows["unstructured (not deployable)", 0.35]
    assert (pruned["deployable"], pruned["reached"]) == (False, 0.35)
    assert all(0.1 < r["peak_gib"] < 8 for r in rows.values())
    assert not list((tmp_path / "runs").iterdir())
    shown = capfd.readouterr().out
    assert shown.strip() == (tmp_path / "page.md").read_text().strip()
    shown_value = line(shown, "unstructured (not deployable)")[-1]
    assert shown_value == f"{pruned['perplexity']:.2f}"


def test_finished_rows_are_not_run_again(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = arguments(command)
    state = State(asked.state)
    started = []
    monkeypatch.setattr(
        "benchmarks.quality.run._run", lambda _, cell, __: (started.append(cell.key), row("x", None, 1.0))[1]
    )
    first = sweep(asked, state)[0]
    assert started == [cell.key for cell in cells(asked)]
    again, failed = sweep(arguments(command), State(asked.state))
    assert (again, failed) == (first, [])
    assert len(started) == len(first)
    sweep(arguments([*command, "--seeds", "2"]), State(asked.state))
    assert len(started) == len(first) + sum(entry.spread for entry in entries())
    sweep(arguments([*command, "--only", "dense"]), State(asked.state, fresh=True))
    assert started[-1] == started[0]
    before = len(started)
    one = arguments([*command, "--only", AUTO, "unstr*", "--ratio", "0.45"])
    sweep(one, State(asked.state, fresh=True))
    ours = {cell.key: cell.entry for cell in cells(asked)}
    assert [(ours[key].method, ours[key].ratio) for key in started[before:]] == [
        ("unstructured (not deployable)", 0.45), (AUTO, 0.45)
    ]  # fmt: skip


def test_a_key_holds_all_that_decides_a_row(command: list[str], tmp_path: Path) -> None:
    keys = {cell.key for cell in cells(arguments(command))}
    assert len(keys) == len(entries())
    for more in (["--windows", "7"], ["--eval-length", "16"], ["--tile", "8x8"]):
        others = [cell.key for cell in cells(arguments([*command, *more]))]
        assert not keys & set(
            others[len(keys) if more[0] == "--tile" else 0 :]
        )  # the first tile size is unchanged
    model = Path(command[0])
    (model / "tokenizer_config.json").write_text("{}")  # depends on the version of transformers
    assert keys == {cell.key for cell in cells(arguments(command))}
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    changed = {cell.key for cell in cells(arguments(command))}
    assert not keys & changed
    Path(command[2]).write_text("the cat sat " * 100)
    assert not keys & {cell.key for cell in cells(arguments(command))}


def test_limited_runs_reuse_unrepaired_results(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = arguments([*command, "--only", "oneshot, 8*", "--total", "8"])
    specs: list[dict[str, Any]] = []

    class Done:
        returncode = 0

    def fake(arguments: list[str], check: bool) -> Done:
        spec = json.loads(arguments[-2])
        specs.append(spec)
        if "keep" in spec:
            Path(spec["keep"]).mkdir(parents=True)
        measured = {"reached": 0.3, "perplexity": 30.0, "seconds": 120.0, "peak_gib": 1.0}
        Path(arguments[-1]).write_text(json.dumps(measured))
        return Done()

    monkeypatch.setattr("benchmarks.quality.run.subprocess.run", fake)
    rows, failed = sweep(asked, State(asked.state))
    assert failed == []
    methods = [NO_REPAIR, "oneshot, 8 min in all"]
    permuted, of_all_kinds = ([name + suffix for name in methods] for suffix in (PERMUTED, ALL_KINDS))
    quantised = [f"{of_all_kinds[1]}, {weights}" for weights in ("int8", "int4")]
    assert [r["method"] for r in rows] == methods * 3 + permuted * 3 + of_all_kinds * 3 + quantised
    assert [r["seconds"] for r in rows] == [120.0, 240.0] * 9 + [240.0] * 2
    assert [spec["recipe"].get("repair_minutes") for spec in specs] == [None, 5.6] * 9 + [3.5, 3.1]
    assert [spec["recipe"]["repair"] for spec in specs] == ["none", "distill"] * 9 + ["distill"] * 2
    assert [spec["recipe"].get("permute") for spec in specs] == [None] * 6 + [True] * 14
    assert [spec["recipe"].get("kinds") for spec in specs] == [None] * 12 + ["auto"] * 8
    assert [spec["recipe"].get("weights") for spec in specs] == [None] * 18 + ["int8", "int4"]
    priors = [spec["keep"] for spec in specs[:18:2]]
    assert [spec.get("prior") for spec in specs[1:18:2]] == priors
    assert [spec["prior"] for spec in specs[18:]] == [priors[7]] * 2  # the row in 16 bits at .35


def test_finished_rows_survive_later_repairs(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The new time may come from another machine. The repair's row records the row that it began with."""
    asked = arguments([*command, "--only", "oneshot, 8*", "--total", "8"])
    values = iter(range(10, 100))

    def fake(spec: dict[str, Any]) -> dict[str, Any]:
        if "keep" in spec:
            Path(spec["keep"]).mkdir(parents=True)
        value = next(values)
        return {"reached": 0.3, "perplexity": float(value), "seconds": value + 0.5, "peak_gib": 1.0}

    monkeypatch.setattr("benchmarks.quality.run._measured", fake)
    first = {(r["method"], r["ratio"]): r for r in sweep(asked, State(asked.state))[0]}
    state = State(asked.state)
    repaired = [cell for cell in cells(asked) if cell.entry.method == "oneshot, 8 min in all"]
    shutil.rmtree(asked.scratch)
    for cell in repaired[:1]:
        del state.rows[cell.key]
    again = {(r["method"], r["ratio"]): r for r in sweep(asked, state)[0]}
    assert again[NO_REPAIR, 0.45] == first[NO_REPAIR, 0.45]
    before, after = (rows["oneshot, 8 min in all", 0.45] for rows in (first, again))
    assert before["before"] == {"perplexity": first[NO_REPAIR, 0.45]["perplexity"], "seconds": 10.5}
    assert after["before"] == {"perplexity": 30.0, "seconds": 30.5}
    assert after["seconds"] == 30.5 + 31.5


def test_trained_masks_follow_their_prior(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """patch-joint computes its prior itself: its seconds include the prior, its gain only the seconds beyond it."""
    asked = arguments([*command, "--only", "patch*"])
    specs = []

    def fake(spec: dict[str, Any]) -> dict[str, Any]:
        specs.append(spec)
        Path(spec["keep"]).mkdir(parents=True)
        if len(specs) == 1:
            return {"reached": 0.35, "perplexity": 41.0, "seconds": 300.0, "peak_gib": 2.0}
        found = {"reached": 0.35, "perplexity": 39.0, "seconds": 1500.0, "peak_gib": 1.0}
        return found | {"train": {"steps": 60}, "repair": None}

    monkeypatch.setattr("benchmarks.quality.run._measured", fake)
    rows, failed = sweep(asked, State(asked.state))
    assert failed == [] and [r["method"] for r in rows] == [NO_REPAIR, PATCH]
    assert [spec["recipe"]["method"] for spec in specs] == ["oneshot", "patch-joint"]
    assert "steps" not in specs[0]["recipe"] and "prior" not in specs[1]
    assert (rows[1]["seconds"], rows[1]["peak_gib"]) == (1500.0, 1.0)
    shown = line(page(rows, asked), PATCH, 2)
    assert shown == [PATCH, "0.35", "41.00", "39.00", "60", "", "20.0", "0.10"]


def test_self_written_rows_get_no_text(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = arguments([*command, "--only", "*self-written*", "unstructured*"])
    texts = {}

    def fake(spec: dict[str, Any]) -> dict[str, Any]:
        texts[spec["recipe"]["calib"]] = spec
        return {"reached": 0.3, "perplexity": 30.0, "seconds": 1.0, "peak_gib": 1.0}

    monkeypatch.setattr("benchmarks.quality.run._measured", fake)
    rows, failed = sweep(asked, State(asked.state))
    assert failed == [] and [r["method"] for r in rows].count(OWN_TEXT) == 1
    assert list(texts) == [command[2], None]


@pytest.mark.parametrize(
    "changed", [{"ratio": 0.3}, {"ratio": 0.0, "weights": "w8a8"}], ids=["16 bits", "w8a8"]
)
def test_resumed_repairs_end_alike(command: list[str], tmp_path: Path, changed: dict[str, Any]) -> None:
    """Smoothing moves tiles of a pruned model, so the model of w8a8 is dense."""
    recipe = {"method": "oneshot", "tile": [16, 16], "windows": 4, "length": 16}
    recipe |= {"calib": command[2]} | changed
    repaired = recipe | {"repair": "distill", "repair_steps": 2}
    about = {"model": command[0], "baseline": None, "eval": command[4], "eval_windows": 2, "eval_length": 20}
    whole = run(about | {"recipe": repaired, "scratch": str(tmp_path / "whole")})
    kept = str(tmp_path / "kept")
    in_16_bits = recipe | {"repair": "none", "weights": "float16"}
    first = run(about | {"recipe": in_16_bits, "scratch": str(tmp_path / "a"), "keep": kept})
    after = about | {"recipe": repaired, "scratch": str(tmp_path / "b"), "prior": kept}
    second = run(after)
    assert second["perplexity"] == whole["perplexity"] != first["perplexity"]
    assert second["repair"] == whole["repair"]
    assert second["reached"] == whole["reached"] and whole["repair"]["steps"] == 2
    assert whole["kinds"].keys() <= {"dense", "2:4"} and sum(whole["kinds"].values()) == pytest.approx(1.0)
    assert whole["bytes_per_weight"] == pytest.approx(2 - 1.75 * whole["reached"], abs=1e-5)
    assert 0.0 < whole["peak_gib"] <= peak_gib() + 0.005  # the peak is rounded to two digits


def test_failed_runs_stop_no_others(
    command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = [*command, "--eval-windows", "9999", "--only", "dense"]
    assert main(wrong) == 1
    assert re.search(r"failed: dense, tile 16x16, seed 0: exit code 1", capfd.readouterr().err)
    assert not (tmp_path / "page.json").exists()


def test_the_page_has_every_number_where_it_belongs(command: list[str]) -> None:
    rows = [
        row("dense", None, 22.88, reached=0.0),
        *(row("oneshot, no repair", 0.35, 41.0 + seed, seed=seed, seconds=100 + seed) for seed in range(3)),
        row("oneshot, no repair", 0.25, 33.0),
        row("oneshot, 8 min in all", 0.35, 33.0, seconds=460.0),
        row(OWN_TEXT, 0.35, 43.0),
        row(NO_REPAIR + PERMUTED, 0.35, 40.5, seconds=400.0),
        row("oneshot, 8 min in all" + PERMUTED, 0.35, 36.5, seconds=640.0),
        row("unstructured (not deployable)", 0.35, 20.0, deployable=False),
        row("dense, w8a8", None, 23.0, reached=0.0),
        row(f"{NO_REPAIR}, w8a8", 0.35, 41.5, before={"perplexity": 41.0, "seconds": 100}),
        row("oneshot, 8 min in all, w8a8", 0.35, 34.0, seconds=470.0),
        row("oneshot, 8 min in all, w8a8", 0.25, 28.5),
    ]
    text = page(rows, arguments([*command, "--tile", "64x64"]))
    assert line(text, "dense") == ["dense", "22.88 at 0.000", "", ""]
    assert line(text, "oneshot, no repair") == ["oneshot, no repair", "", "42.00 (41.00 … 43.00)", "33.00"]
    assert line(text, "oneshot, no repair", 1) == ["oneshot, no repair", "", "101 s, 1.3", "60 s, 1.3"]
    assert line(text, "oneshot, 8 min in all", 2) == [
        "oneshot, 8 min in all", "0.35", "41.00", "33.00", "", "", "6.0", "1.33",
    ]  # fmt: skip
    assert text.count(f"| {OWN_TEXT} |") == 2  # in the tables of perplexity and cost; nothing is trained
    assert text.count(f"| {NO_REPAIR + PERMUTED} |") == 2
    assert line(text, "oneshot, 8 min in all" + PERMUTED, 2) == [
        "oneshot, 8 min in all, permuted", "0.35", "40.50", "36.50", "", "", "4.0", "1.00",
    ]  # fmt: skip
    costs = text[text.index("| 16 bits | w8a8 |") :].splitlines()[2:]
    assert costs == [
        "| dense |  | 22.88 | 23.00 | +0.5% |",
        "| oneshot, no repair | 0.35 | 41.00 | 41.50 | +1.2% |",
        "| oneshot, 8 min in all | 0.35 | 33.00 | 34.00 | +3.0% |",
    ]
    assert line(text, "0.35") == [
        "0.35", "oneshot, no repair: 41.00", "oneshot, 8 min in all: 33.00", "oneshot, 8 min in all: 33.00",
    ]  # fmt: skip
    assert str(Path(command[0]).parent) not in text  # names of files, no folders
    assert "windows × 16 tokens" in text


def test_rows_of_two_machines_are_told_apart(command: list[str]) -> None:
    other = {"machine": "other, 8 cores", "date": "2026-12-01"}
    before, repair = {"perplexity": 40.0, "seconds": 120.0}, {"steps": 7, "learning_rate": 1.8148e-4}
    rows = [
        row(NO_REPAIR, 0.35, 41.0),
        row(NO_REPAIR, 0.25, 33.0, date="2026-11-27"),
        row("oneshot, 8 min in all", 0.35, 30.0, seconds=420.0, before=before, repair=repair, **other),
    ]
    text = page(rows, arguments(command))
    assert (
        "- machine a: one, 2 cores; 2026-11-25 … 2026-11-27\n- machine b: other, 8 cores; 2026-12-01\n"
        in text
    )
    assert line(text, NO_REPAIR, 1)[2:] == ["60 s, 1.3, a", "60 s, 1.3, a"]
    assert line(text, "oneshot, 8 min in all", 1)[2] == "420 s, 1.3, b"
    assert line(text, "oneshot, 8 min in all", 2)[1:] == [
        "0.35", "40.00", "30.00", "7", "0.00018", "5.0", "2.00",
    ]  # fmt: skip
    alone = page(rows[:2], arguments(command))
    assert "- machine: one, 2 cores; 2026-11-25 … 2026-11-27\n" in alone and "1.3, a" not in alone


def test_two_processes_keep_their_rows_in_one_file(tmp_path: Path) -> None:
    first, second = State(tmp_path / "s.json"), State(tmp_path / "s.json")
    first.put("a", row("one", None, 1.0))
    second.put("b", row("two", None, 2.0))
    assert list(State(tmp_path / "s.json").rows) == ["a", "b"]
