"""Resolves the user's spelling of OUT to a folder, and checks that a build may be put there."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from masklearn.base.processes import process_count
from patch_compile.artifacts.layout import MANIFEST, PARTIAL, STATE
from patch_compile.artifacts.lock import lock_holder
from patch_compile.artifacts.manifest import Manifest
from patch_compile.artifacts.stage_files import check_own
from patch_compile.artifacts.state import NAME_MAX, WorkspaceState, holds_nothing, is_workspace
from patch_compile.errors import PatchCompileError

RUNNING = "Another build is running"


def place_of(out: Path) -> Path:
    """Returns the absolute path of the folder that OUT names. It follows links and `..`.

    Raises PatchCompileError if no build can be renamed to that place: the current folder and its parents, a mount
    point, a broken link, a path through a file.
    """
    try:
        current_folder = Path.cwd()
        spelled = current_folder / out
        if spelled.is_symlink() and not spelled.exists():
            raise PatchCompileError(
                f"{out} is a link to {spelled.readlink()}, and nothing is there",
                "What it points to was removed, or its disk is not mounted.",
                "Remove the link, or give the folder itself with -o.",
            )
        place = spelled.resolve()
        _check_movable(out, place, current_folder)
    except (OSError, RuntimeError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise PatchCompileError(f"A build can't be put at {out}", reason, "Choose another -o.") from None
    return place


def partial_of(place: Path) -> Path:
    """Returns the folder, next to OUT, in which OUT is built."""
    return place.parent / f"{place.name}{PARTIAL}"


def no_build(out: Path, why: str) -> PatchCompileError:
    """Returns the error for a path that should be a finished build. It tells an unfinished build and a model apart.

    why: what a build has and `out` lacks.
    """
    if error := unfinished_build(out):
        return error
    build = "Build it: `patch-compile build MODEL_DIR -o OUT`."
    if not out.exists():
        return PatchCompileError(f"{out} does not exist", "There is no such file or folder.", build)
    if (out / "config.json").is_file():
        fix = f"Build it, and give the result: `patch-compile build {out} --ratio 0.4 -o OUT`."
        return PatchCompileError(f"{out} is a model, not a build", why, fix)
    return PatchCompileError(f"{out} is not a build", why, build)


def unfinished_build(out: Path) -> PatchCompileError | None:
    """Returns the error for an OUT that is not finished, by its own name or the name of its unfinished folder; None for any
    other path."""
    place = out.resolve()
    folder = next((path for path in (place, partial_of(place)) if (path / STATE).is_file()), None)
    if folder is None or (place / MANIFEST).is_file():
        return None
    if holder := lock_holder(folder):
        return PatchCompileError(
            f"{out} is being built", f"Another command builds it ({holder}).", "Wait until it is done."
        )
    return PatchCompileError(
        f"{out} is not finished",
        f"A command that builds it was interrupted; its finished stages are in {folder}.",
        "Run that command again with --resume.",
    )


def name_aside(place: Path) -> Path:
    """Returns a new name, next to OUT, for the build that a new build replaces."""
    return place.with_name(f".{place.name}.replaced-{secrets.token_hex(8)}")


def check_out(out: Path, *, force: bool, resume: bool, held: bool = False) -> None:
    """Raises PatchCompileError if OUT or an unfinished build of it exists and no flag says how to treat it.

    Whatever the flags, it accepts only folders that patch-compile made, without links and without files of the user. It
    changes nothing. held: True if this process has the lock of the unfinished build.
    """
    place = place_of(out)
    root = partial_of(place)
    check_replaceable(place, force=force or (resume and is_half_published(place)))
    if not os.path.lexists(root):
        return
    if not is_workspace(root):
        raise PatchCompileError(
            f"{root} was not made by patch-compile",
            f"{place.name} is built there, and the folder there holds no {STATE} of a build.",
            "Move it away, or choose another -o.",
        )
    if not (force or resume):
        _check_unfinished(place, root, held=held)
    # The process with the lock writes there meanwhile, so no other process checks.
    if held or process_count() == 1:
        done = f"{root.name} would be cleared to build {place.name}"
        check_own(root, WorkspaceState.read(root).own_paths, done=done)


def check_apart(out: Path, inputs: Iterable[Path]) -> None:
    """Raises PatchCompileError if an input of a run lies in OUT or in its unfinished build, or if OUT lies in an input.

    inputs: the model's folder or file, and every other file that the run reads.
    """
    place = place_of(out)
    for path in inputs:
        source = path.resolve()
        for folder in (place, partial_of(place)):
            if source.is_relative_to(folder):
                raise PatchCompileError(
                    f"{path} lies in {folder}",
                    "The run reads it, and would replace the folder.",
                    f"Move it out of {folder.name}, or choose another -o.",
                )
        if source.is_dir() and place.is_relative_to(source):
            raise PatchCompileError(
                f"OUT can't be {place}",
                f"It lies in {path}, which the run reads as a model.",
                "Choose an -o outside the model's folder.",
            )


def check_free_space(out: Path, needed: int) -> None:
    """Raises PatchCompileError unless the disk of OUT has `needed` free bytes."""
    home = next(parent for parent in place_of(out).parents if parent.exists())
    free = shutil.disk_usage(home).free
    if free < needed:
        raise PatchCompileError(
            f"There is no space for {out}",
            f"It needs up to {needed / 1e9:.1f} GB, and {home} has {free / 1e9:.1f} GB.",
            "Make room, or write to another disk with -o.",
        )


def is_half_published(place: Path) -> bool:
    """Returns True if a build is at `place` whose run ended before it removed what only publishing needed.

    `--resume` continues with it: its stages are reused, and the build at `place` is whole until it is replaced.
    """
    return (place / MANIFEST).is_file() and (place / STATE).is_file()


def check_replaceable(place: Path, *, force: bool) -> None:
    """Raises PatchCompileError unless nothing is at `place`, or a build is there and `force` is set."""
    if not os.path.lexists(place):
        return
    if not force:
        resume = " (with --resume, to continue its unfinished build)" if partial_of(place).exists() else ""
        raise PatchCompileError(
            f"{place} exists",
            "A build does not overwrite an earlier build unasked.",
            f"Use --force to replace it{resume}, or another -o.",
        )
    if not (place / MANIFEST).is_file():
        raise _not_ours(place, f"It holds no {MANIFEST}, so --force will not replace it.")
    try:
        manifest = Manifest.read(place / MANIFEST)
    except PatchCompileError as error:
        raise _not_ours(place, f"{error.what}: {error.why}") from None
    check_own(place, manifest.own_paths, done=f"{place.name} would be replaced")


def _not_ours(place: Path, why: str) -> PatchCompileError:
    return PatchCompileError(
        f"{place} was not made by patch-compile", why, "Choose another -o, or move the folder away."
    )


def _check_unfinished(place: Path, root: Path, *, held: bool) -> None:
    if not held and (holder := lock_holder(root)):
        raise PatchCompileError(
            f"{RUNNING} ({holder})", f"It builds in {root}.", "Wait until it is done, or choose another -o."
        )
    if holds_nothing(root):
        return
    aside = WorkspaceState.read(root).replaces
    replaced = None if aside is None else place.with_name(aside)
    why = "An earlier run was interrupted"
    if replaced is not None and replaced.exists() and not place.exists():
        why += f" while it replaced {place}; the build it replaced is in {replaced}, and the next run puts it back"
    raise PatchCompileError(
        f"{root} holds an unfinished build",
        f"{why}.",
        "Use --resume to continue it, or --force to start anew.",
    )


def _check_movable(out: Path, place: Path, current_folder: Path) -> None:
    if current_folder.is_relative_to(place):
        raise PatchCompileError(
            f"OUT can't be {place}",
            "It is the current folder, or holds it, and a build is renamed into the place of OUT.",
            "Name a folder in it: -o NAME.",
        )
    if os.path.ismount(place):
        raise PatchCompileError(
            f"OUT can't be {place}",
            "A disk is mounted there, and a build is renamed into the place of OUT.",
            f"Name a folder in it: -o {out / 'NAME'}.",
        )
    above = next(parent for parent in place.parents if os.path.lexists(parent))
    if not above.is_dir():
        raise PatchCompileError(
            f"A build can't be put at {out}", f"{above} is not a folder.", "Choose another -o."
        )
    if len(os.fsencode(name_aside(place).name)) > NAME_MAX:
        raise PatchCompileError(
            f"The name of OUT is too long: {place.name[:40]}…",
            "Names of temporary folders, which a build makes from it, would have more than 255 bytes.",
            "Choose a shorter -o.",
        )
