"""OUT after its build: later commands read it, verify it against its manifest, and add files to it."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from masklearn.base.durable import flush_tree, temporary_name
from patch_compile.artifacts.layout import MANIFEST, RECIPE
from patch_compile.artifacts.lock import FolderLock
from patch_compile.artifacts.manifest import Manifest, sizes_of
from patch_compile.artifacts.place import no_build
from patch_compile.artifacts.stage_files import (
    check_links,
    check_own,
    links_in,
    remove,
    remove_temporaries,
    sha256_of,
)
from patch_compile.artifacts.state import StageRecord
from patch_compile.errors import PatchCompileError


@dataclass(frozen=True)
class OutFolder:
    """A finished build. `open` reads it. verify, bench, export and the report add their files to its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path, *, check: bool = True) -> OutFolder:
        """Open a finished build.

        Raises PatchCompileError if `path` is not a finished build, or, with `check`, if a file has changed since it was
        written.
        """
        _check_is_build(path)
        manifest = Manifest.read(path / MANIFEST)
        _refuse(path, faulty_files(path, manifest) if check else ())
        return cls(path, manifest)

    def check_sizes(self, folders: Collection[str]) -> None:
        """Raise PatchCompileError if a file in these folders of OUT has another size than the manifest says. Files that are
        missing are not asked for."""
        sizes = self.manifest.sizes
        written = [name for name in sizes if PurePosixPath(name).parts[0] in folders]
        present = sizes_of(self.path, [name for name in written if (self.path / name).is_file()])
        wrong = (
            f"{name} has {size:,} bytes, and {sizes[name]:,} were written"
            for name, size in present.items()
            if size != sizes[name]
        )
        _refuse(self.path, wrong)

    def record(self, stage: str, key: str, names: list[str]) -> OutFolder:
        """Record the files of a later step in the manifest, in place of its earlier files.

        The caller must hold the folder exclusively, by `kept_for_writing` or as the build that has just published it.
        """
        new = StageRecord(key, {name: sha256_of(self.path / name) for name in names})
        manifest = Manifest.read(self.path / MANIFEST).with_stage(stage, new, self.path)
        manifest.write(self.path / MANIFEST)
        return OutFolder(self.path, manifest)

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Yield a new folder, which replaces the folder `name` of OUT once the block ends.

        The manifest forgets the files of the old folder, and the caller records the new files. An interruption leaves the
        old folder. The caller must hold OUT exclusively, as for `record`. Raises PatchCompileError if the old folder holds
        files of the user.
        """
        self.check_replaceable(name)
        folder = self.path / temporary_name(name)
        folder.mkdir()
        try:
            yield folder
            flush_tree(folder)
            self.forget(name, name)
            remove(self.path / name)
            folder.rename(self.path / name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def check_replaceable(self, name: str) -> None:
        """Raise PatchCompileError if the folder `name` of OUT holds files that patch-compile did not write."""
        check_own(self.path, self.manifest.own_paths, done=f"{name} would be replaced", inside=name)

    def record_folder(self, name: str, key: str) -> OutFolder:
        """Record all files of the folder `name` in the manifest, as `record` does."""
        files = sorted(file for file in (self.path / name).rglob("*") if file.is_file())
        return self.record(name, key, [str(file.relative_to(self.path)) for file in files])

    def forget(self, stage: str, *paths: str) -> None:
        """Take the files of a later step out of the manifest, before they are changed. They stay where they are.

        Otherwise an interruption between changing and recording them would leave files that the manifest contradicts, and
        every command would refuse the build. paths: files and folders of OUT that the step writes, which the manifest notes
        as begun until they are recorded. The caller must hold the folder exclusively, as for `record`.
        """
        Manifest.read(self.path / MANIFEST).with_begun(stage, paths).write(self.path / MANIFEST)


@contextmanager
def kept_for_writing(path: Path) -> Iterator[None]:
    """Lock a finished build for this process, which writes into it, until the block ends.

    Raises PatchCompileError if `path` is not a finished build or holds links, or another process writes into it or replaces
    it.
    """
    _check_is_build(path)
    check_links(path)
    lock = FolderLock(path)
    try:
        remove_temporaries(path)
        yield
    finally:
        lock.release()


def faulty_files(path: Path, manifest: Manifest) -> Iterator[str]:
    """Yield the faults of a build's files, in words. It hashes every file."""
    yield from (f"{name} is a link, and a build makes none" for name in links_in(path))
    for name, digest in manifest.files.items():
        file = path / name
        if not file.is_file():
            yield f"{name} is missing"
        elif sha256_of(file) != digest:
            yield f"{name} is not the file that was written: its sha256 is another one"


def _refuse(path: Path, faults: Iterable[str]) -> None:
    if told := "; ".join(faults):
        raise PatchCompileError(
            f"{path} is not what its {MANIFEST} says",
            told,
            "Build it again: `patch-compile build --recipe "
            f"{path / RECIPE} -o {path} --force` (stages that are whole are kept).",
        )


def _check_is_build(path: Path) -> None:
    if not (path / MANIFEST).is_file():
        raise no_build(path, f"It holds no {MANIFEST}.")
