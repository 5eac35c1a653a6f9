"""Readers of engines and plugin libraries, which are read without being loaded."""

from __future__ import annotations

from pathlib import Path

from patch_compile.inspection.binaries import inspect_engine_file, inspect_plugin
from patch_compile.runtime.engine_fit import engine_facts
from tests.attacks.fuzz.mutations import change_bytes, change_json, change_words
from tests.attacks.fuzz.reader import Reader, placed


def _engine(data: bytes, folder: Path) -> None:
    engine = placed(folder, "model.engine", data)
    facts = engine_facts(engine)
    assert facts.path == engine
    inspect_engine_file(engine)


def _described(data: bytes, folder: Path) -> None:
    beside = folder / "described"
    beside.mkdir(exist_ok=True)
    placed(beside, "engine.json", data)
    engine_facts(placed(beside, "model.engine", b"\x7fELF"))


def _plugin(data: bytes, folder: Path) -> None:
    inspect_plugin(placed(folder, "libpatch_linear.so", data))


READERS = (
    Reader("engine", _engine, change_words),
    Reader("engine-described", _described, change_json),
    Reader("plugin", _plugin, change_bytes),
)
