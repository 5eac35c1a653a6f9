"""The command that a sweep attempts, its folders, and the files that an undisturbed run leaves."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masklearn.base.durable import is_temporary
from patch_compile.artifacts.folder import faulty_files
from patch_compile.artifacts.layout import (
    ENGINE,
    ENGINE_REPORT,
    MANIFEST,
    PAGE,
    REPORT,
    VERIFY,
    VERIFY_CHECKPOINT_NAME,
    VERIFY_FOLDER,
    VERIFY_HYBRID_NAME,
)
from patch_compile.artifacts.lock import LOCK
from patch_compile.artifacts.manifest import Manifest
from patch_compile.artifacts.stage_files import remove
from patch_compile.report.page.page_data import Sources
from patch_compile.report.page.write import rendered
from tests.conftest import texts_in, write_model

# Outputs as Polygraphy writes them, with the time that they took.
_TIMED = [f"{VERIFY_FOLDER}/{name}" for name in (VERIFY_CHECKPOINT_NAME, VERIFY_HYBRID_NAME)]
_MODEL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1}
_BUILD = (
    *("--ratio", "0.4", "--tile", "32x32", "--windows", "2", "--length", "16", "--eval-windows", "1"),
    *("--eval-length", "16", "--lowering", "plugin", "--calib", "text.txt"),
    *("--eval", "eval.txt"),
)


@dataclass(frozen=True)
class Scenario:
    """One command. replaces: settings of an earlier build that is at OUT and is replaced."""

    name: str
    settings: tuple[str, ...]
    replaces: tuple[str, ...] | None = None
    engine: bool = False

    def command(self, *flags: str) -> list[str]:
        force = () if self.replaces is None else ("--force",)
        return ["build", "model", "-o", "out", *_BUILD, *self.settings, *force, *flags]

    def earlier(self) -> list[str]:
        assert self.replaces is not None
        return ["build", "model", "-o", "out", *_BUILD, *self.replaces]


_MAGNITUDE = ("--method", "magnitude", "--repair", "none", "--backend", "onnx")
SCENARIOS: Mapping[str, Scenario] = {
    one.name: one
    for one in (
        Scenario("magnitude", _MAGNITUDE),
        Scenario("oneshot with repair", ("--method", "oneshot", "--repair-steps", "2", "--backend", "onnx")),
        Scenario("magnitude over an earlier build", _MAGNITUDE, (*_MAGNITUDE, "--ratio", "0.3")),
        Scenario(
            "TensorRT-RTX",
            ("--method", "magnitude", "--repair", "none", "--backend", "tensorrt-rtx", "--target", "sm86"),
            engine=True,
        ),
    )
}


class Place:
    """A user's folder: a model, a text, the build in `out`, and folders next to `out` that no command may touch."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._earlier = folder / "work", folder / "earlier"
        self.folder.mkdir(parents=True)
        write_model(self.folder / "model", "llama", **_MODEL)
        texts_in(self.folder)
        for name in ("out.old", "out.bak", ".out.replaced-0123456789abcdef"):
            (self.folder / name).mkdir()
            (self.folder / name / MANIFEST).write_text("mine")
        self._theirs = set(self.folder.iterdir())
        self.untouched = snapshot(self.folder)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def keep_earlier(self) -> None:
        """Let `reset` restore the present content of OUT."""
        self.out.rename(self._earlier)

    def reset(self) -> None:
        for path in set(self.folder.iterdir()) - self._theirs:
            remove(path)
        if self._earlier.exists():
            shutil.copytree(self._earlier, self.out)

    def harmed(self) -> list[str]:
        """Returns the user's files that are not as they were."""
        now = snapshot(self.folder)
        return [f"{name} was changed" for name, found in self.untouched.items() if now.get(name) != found]

    def beside(self) -> set[str]:
        """Returns the names in the folder that are not the user's."""
        return {path.name for path in set(self.folder.iterdir()) - self._theirs}

    def state(self) -> str:
        """Returns a hash of everything that the next run finds. It does not depend on random names."""
        found = {
            re.sub(r"[0-9a-f]{16}", "", name): content
            for name, content in snapshot(self.folder).items()
            if not name.endswith(".lock")
        }
        return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def snapshot(folder: Path) -> dict[str, str]:
    """Returns the content of each path: the sha256 of a file, "folder", or the target of a link."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[str(path.relative_to(folder))] = "folder"
        else:
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def litter(folder: Path) -> list[str]:
    """Returns the half-written files below a folder."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if is_temporary(path.name)]


def differences(
    out: Path, reference: Path, *, engine: bool = False, but: Collection[str] = (LOCK,)
) -> list[str]:
    """Returns the differences between a build and an undisturbed build.

    Seconds, the day and notes, which say what was resumed, may differ. engine: the bytes of the engine may differ too; but:
    paths of the build that are not compared: a process that is killed after it has published leaves its lock, which the
    next removes. The page must follow from its sources, and the manifest must have the hashes and sizes of the files.
    """
    if not (out / MANIFEST).is_file():
        return ["there is no build"]
    ours, theirs = snapshot(out), snapshot(reference)
    ours = {name: found for name, found in ours.items() if name not in but}
    free = {MANIFEST, REPORT, VERIFY, *_TIMED, PAGE, *((ENGINE, ENGINE_REPORT) if engine else ())}
    free &= theirs.keys()
    found = [
        f"{name} differs" for name in sorted({*ours, *theirs} - free) if ours.get(name) != theirs.get(name)
    ]
    found += [f"{name} is missing" for name in sorted(free & theirs.keys() - ours.keys())]
    if found:
        return found
    found = [*faulty_files(out, Manifest.read(out / MANIFEST))]
    for name in sorted(free & {MANIFEST, REPORT, VERIFY}):
        if _lasting(out / name, free, engine) != _lasting(reference / name, free, engine):
            found.append(f"{name} says something else")
    if PAGE in free and rendered(Sources.read(out)) != (out / PAGE).read_text(encoding="utf-8"):
        found.append(f"{PAGE} is not the page of its sources")
    return found


def _lasting(file: Path, free: set[str], engine: bool) -> Any:
    content = json.loads(file.read_text())
    for name in ("seconds", "notes", "date", *(("engine",) if engine else ())):
        content.pop(name, None)
    for files in (
        content.get("files"),
        content.get("sizes"),
        *(stage["files"] for stage in content.get("stages", {}).values()),
    ):
        for name in free & (files or {}).keys():
            files[name] = "free"
    if "stages" in content:
        content["stages"].get("page", {}).pop("key", None)  # of the hashes of the page's sources
    return content
