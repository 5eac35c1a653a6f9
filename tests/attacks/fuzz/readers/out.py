"""Readers of the files of OUT, which may come from somebody else or from a disk that failed."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

from patch_compile.artifacts.bench import BenchReport
from patch_compile.artifacts.engine import EngineReport
from patch_compile.artifacts.layout import MANIFEST, RECIPE, REPORT, STATE
from patch_compile.artifacts.manifest import Manifest
from patch_compile.artifacts.plan import Plan
from patch_compile.artifacts.report import read_report
from patch_compile.artifacts.state import WorkspaceState, is_workspace
from patch_compile.artifacts.verify import VerifyReport
from patch_compile.planning.measured import measured_cards
from patch_compile.recipe import Recipe
from tests.attacks.fuzz.mutations import change_json, change_yaml
from tests.attacks.fuzz.reader import Reader, placed

_RECORDS = {
    '"stages":': Manifest, '"plugin":': EngineReport, '"asked":': VerifyReport, '"rows":': BenchReport, '"totals":': Plan,
}  # fmt: skip


def _recipe(data: bytes, folder: Path) -> None:
    settings = Recipe.load(placed(folder, RECIPE, data))
    recipe = Recipe.parse(settings)
    assert Recipe.parse(recipe.model_dump()) == recipe


def _record(data: bytes, folder: Path) -> None:
    """Read the file as the first kind whose field it spells, and what it accepts once more as it writes it."""
    kind = next((kind for field, kind in _RECORDS.items() if field.encode() in data), Manifest)
    found = kind.read(placed(folder, "record.json", data))
    again = folder / "again.json"
    found.write(again)
    assert kind.read(again) == found or "nan" in again.read_text().lower()


def _report(data: bytes, folder: Path) -> None:
    placed(folder, REPORT, data)
    read_report(folder)


def _state(data: bytes, folder: Path) -> None:
    out = folder / "out.partial"
    out.mkdir(exist_ok=True)
    placed(out, "model.onnx", b"somebody's")
    placed(out, STATE, data)
    if is_workspace(out):
        WorkspaceState.read(out)


def _manifest_inspected(data: bytes, folder: Path) -> None:
    from patch_compile.inspection.folders import inspect_build

    out = folder / "inspected"
    out.mkdir(exist_ok=True)
    placed(out, MANIFEST, data)
    inspect_build(out)


def _measured(data: bytes, folder: Path) -> None:
    cards = folder / "measured"
    cards.mkdir(exist_ok=True)
    placed(cards, "card.json", data)
    with mock.patch("patch_compile.planning.measured.measured_folder", return_value=cards):
        for card in measured_cards():
            assert card.assume is not None


READERS = (
    Reader("recipe", _recipe, change_yaml),
    Reader("record", _record, change_json),
    Reader("report", _report, change_json),
    Reader("state", _state, change_json),
    Reader("manifest-inspect", _manifest_inspected, change_json),
    Reader("measured", _measured, change_json),
)
