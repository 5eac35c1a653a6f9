"""Readers that show what they read: the page of a build, a comparison, and the texts of the terminal.

A record that is valid may still hold numbers that no build has: a dense model of perplexity 0, a phase of 0 ms, no linear.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from patch_compile.artifacts.bench import BenchReport
from patch_compile.artifacts.compare import Against
from patch_compile.artifacts.layout import BENCH, MANIFEST, REPORT, VERIFY
from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.artifacts.verify import VerifyReport
from patch_compile.comparison.compare import compare
from patch_compile.report.page import write_page
from patch_compile.report.terminal.bench import benched_parts
from patch_compile.report.terminal.compare import compared_parts
from patch_compile.report.terminal.verify import verified_parts
from tests.artifacts.benched import benched
from tests.attacks.fuzz.mutations import change_json, change_yaml
from tests.attacks.fuzz.reader import Reader, placed
from tests.report.page.found import verified
from tests.report.page.outs import Out

_SHAPES = {f"model.layers.{i}.mlp.{part}_proj": (256, 256) for i in range(2) for part in ("up", "down")}


@cache
def sound_build(folder: Path) -> Path:
    """Write a finished build with its verification and its times, once for a folder."""
    out = Out(folder, _SHAPES)
    return out.write(verified(out), benched())


def _page(data: bytes, folder: Path) -> None:
    out = sound_build(folder / "page-report")
    placed(out, REPORT, data)
    write_page(out)


def _page_verify(data: bytes, folder: Path) -> None:
    out = sound_build(folder / "page-verify")
    placed(out, VERIFY, data)
    write_page(out)
    found = VerifyReport.of(out)
    assert found is not None
    list(verified_parts(found, out))


def _page_bench(data: bytes, folder: Path) -> None:
    out = sound_build(folder / "page-bench")
    placed(out, BENCH, data)
    write_page(out)
    found = BenchReport.of(out)
    assert found is not None
    list(benched_parts(found, str(out)))


def _page_recipe(data: bytes, folder: Path) -> None:
    out = sound_build(folder / "page-recipe")
    placed(out, "recipe.yaml", data)
    write_page(out)


def _compared(data: bytes, folder: Path) -> None:
    """Compare with a build whose report it is, on every axis, in words and as a picture."""
    first, second = (sound_build(folder / name) for name in ("first", "second"))
    placed(second, REPORT, data)
    for out in (first, second):
        manifest = json.loads((out / MANIFEST).read_text())
        manifest["files"] = {name: sha256_of(out / name) for name in manifest["files"]}
        (out / MANIFEST).write_text(json.dumps(manifest))
    for against in Against:
        found = compare([first, second], folder / "picture.svg", against, force=True)
        list(compared_parts(found))


READERS = (
    Reader("page-report", _page, change_json, cost=4),
    Reader("page-verify", _page_verify, change_json, cost=4),
    Reader("page-bench", _page_bench, change_json, cost=4),
    Reader("page-recipe", _page_recipe, change_yaml, cost=4),
    Reader("compared", _compared, change_json, cost=4),
)
