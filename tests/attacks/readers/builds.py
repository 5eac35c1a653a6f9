"""Readers of the files of OUT, which may come from somebody else or from a disk that failed, and of their views.

A record that is valid may still hold numbers that no build has: a dense model of perplexity 0, a phase of 0 ms, no linear.
"""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from unittest import mock

from patch_compile.api.results import Result
from patch_compile.artifacts.bench import BenchReport
from patch_compile.artifacts.engine import EngineReport
from patch_compile.artifacts.layout import BENCH, MANIFEST, RECIPE, REPORT, STATE, VERIFY
from patch_compile.artifacts.manifest import Manifest
from patch_compile.artifacts.plan import Plan
from patch_compile.artifacts.report import read_report
from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.artifacts.state import WorkspaceState, is_workspace
from patch_compile.artifacts.verify import VerifyReport
from patch_compile.comparison import compare
from patch_compile.inspection.folders import inspect_build
from patch_compile.planning.measured import measured_cards
from patch_compile.recipe import Recipe
from tests.artifacts.benched import benched
from tests.attacks.mutations import change_json, change_yaml
from tests.attacks.reader import placed, reader
from tests.report.page.found import verified
from tests.report.page.outs import Out, write_page

_RECORDS = {
    '"stages":': Manifest, '"plugin":': EngineReport, '"asked":': VerifyReport, '"rows":': BenchReport, '"totals":': Plan,
}  # fmt: skip
_SHAPES = {f"model.layers.{i}.mlp.{part}_proj": (256, 256) for i in range(2) for part in ("up", "down")}


@reader("recipe", change_yaml)
def _recipe(data: bytes, folder: Path) -> None:
    settings = Recipe.load(placed(folder, RECIPE, data))
    recipe = Recipe.parse(settings)
    assert Recipe.parse(recipe.model_dump()) == recipe


@reader("record", change_json)
def _record(data: bytes, folder: Path) -> None:
    """Read the file as the first kind whose field it spells, and what it accepts once more as it writes it."""
    kind = next((kind for field, kind in _RECORDS.items() if field.encode() in data), Manifest)
    found = kind.read(placed(folder, "record.json", data))
    again = folder / "again.json"
    found.write(again)
    assert kind.read(again) == found or "nan" in again.read_text().lower()


@reader("report", change_json)
def _report(data: bytes, folder: Path) -> None:
    placed(folder, REPORT, data)
    read_report(folder)


@reader("state", change_json)
def _state(data: bytes, folder: Path) -> None:
    out = folder / "out.partial"
    placed(out, "model.onnx", b"somebody's")
    placed(out, STATE, data)
    if is_workspace(out):
        WorkspaceState.read(out)


@reader("manifest-inspect", change_json)
def _manifest(data: bytes, folder: Path) -> None:
    inspect_build(placed(folder / "inspected", MANIFEST, data).parent)


@reader("measured", change_json)
def _measured(data: bytes, folder: Path) -> None:
    cards = placed(folder / "measured", "card.json", data).parent
    with mock.patch("patch_compile.planning.measured.measured_folder", return_value=cards):
        for card in measured_cards():
            assert card.assume is not None


@cache
def _sound_build(folder: Path) -> Path:
    """Write a finished build with its verification and its times, once for a folder."""
    out = Out(folder, _SHAPES)
    return out.write(verified(out), benched())


def _page(data: bytes, folder: Path, name: str, kind: type[VerifyReport | BenchReport] | None = None) -> None:
    """Write the page of a build with this file, and the sections of what a command prints of it."""
    out = _sound_build(folder / f"page-{name}")
    placed(out, name, data)
    write_page(out)
    if kind is not None:
        record = kind.of(out)
        assert record is not None
        list(Result(record, out).sections())


reader("page-report", change_json, cost=4)(partial(_page, name=REPORT))
reader("page-verify", change_json, cost=4)(partial(_page, name=VERIFY, kind=VerifyReport))
reader("page-bench", change_json, cost=4)(partial(_page, name=BENCH, kind=BenchReport))
reader("page-recipe", change_yaml, cost=4)(partial(_page, name=RECIPE))


@reader("compared", change_json, cost=4)
def _compared(data: bytes, folder: Path) -> None:
    """Compare with a build whose report it is."""
    first, second = (_sound_build(folder / name) for name in ("first", "second"))
    placed(second, REPORT, data)
    for out in (first, second):
        manifest = json.loads((out / MANIFEST).read_text())
        manifest["files"] = {name: sha256_of(out / name) for name in manifest["files"]}
        (out / MANIFEST).write_text(json.dumps(manifest))
    list(Result(compare([first, second])).sections())
