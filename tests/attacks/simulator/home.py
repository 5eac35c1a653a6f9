"""A user's home in a sandbox: inputs of commands, files that no command may touch, and what is done between commands.

Everything is below `work`, the current folder of every command, or next to it. `work` also holds a module for
every name that anything imports, which leaves a mark when it runs.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from patch_compile.artifacts.layout import MASKS, MODEL, PARTIAL, STATE
from patch_compile.artifacts.record import write_json
from patch_compile.artifacts.stage_files import remove
from tests.cli.poison import poison
from tests.conftest import TEXT, texts_in, write_model

PUBLISHED = "published"
_RECIPE = "ratio: {}\nmethod: magnitude\nrepair: none\ntile: 32x32\n"
_PRECIOUS = "This is the user's.\n"

# Kind, inode, size, time and mode of a file; the target of a link; or the kind of anything else.
Entry = tuple[object, ...]


class Home:
    """The home. theirs: paths in it of the user's files; planted: paths of links and files that `tidy` takes away."""

    def __init__(self, folder: Path) -> None:
        self.path, self._template, self._aside = (folder / name for name in ("home", "template", "aside"))
        self.work = self.path / "work"
        self.work.mkdir(parents=True)
        write_model(self.work / "model", "llama", hidden_size=64, intermediate_size=96, num_hidden_layers=1)
        texts_in(self.work)
        (self.work / "recipe.yaml").write_text(_RECIPE.format(0.4))
        self.theirs: set[str] = set()
        self.planted: list[Path] = []
        self.changes = _CHANGES

    def finish(self, masks: Path, others: Path) -> None:
        """Complete the inputs: a build whose masks become inputs, and another one for when the user changes them."""
        shutil.copy(masks / MASKS, self.work / MASKS)
        shutil.copytree(masks / MODEL, self.work / PUBLISHED)
        other_masks = (others / MASKS).read_bytes()
        self.changes = _CHANGES | {MASKS: lambda content: other_masks}
        for build in (masks, others):
            shutil.rmtree(build)
        for name in ("precious/file", "precious/folder/file", ".bashrc", "work/out.txt", "work/.git/config"):
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_text(_PRECIOUS)
        poison(self.work)
        self.keep_all()
        self._first = {path for path, kind in self._begun.items() if kind[0] == "file"}

    def keep_all(self) -> None:
        """Let `reset` restore what is there now. The user's files are those of `finish`."""
        shutil.rmtree(self._template, ignore_errors=True)
        shutil.copytree(self.path, self._template)
        self._begun = self.entries()

    def reset(self) -> None:
        """Begin anew."""
        now = self.entries()
        for path in reversed(now):  # a folder comes before what is in it
            if now[path] != self._begun.get(path):
                remove(self.path / path)
        for path, entry in self._begun.items():
            if entry == ("folder",):
                (self.path / path).mkdir(exist_ok=True)
            elif now.get(path) != entry:
                shutil.copy2(self._template / path, self.path / path)
        self._begun = self.entries()
        self.theirs, self.planted = set(self._first), []

    def entries(self) -> dict[str, Entry]:
        """Returns everything in the home, by path in it."""
        return dict(_entries(str(self.path), ""))

    def alone(
        self, names: list[str], prior: Path | None, run: Callable[[], int], out: str, keep: Path
    ) -> int:
        """Run a command in a home with nothing but its inputs, at the same path. Returns its exit code and keeps OUT.

        prior: the OUT of an earlier command, which this one adds to.
        """
        self.path.rename(self._aside)
        self.work.mkdir(parents=True)
        try:
            for source, name in [*((self._aside / "work" / name, name) for name in names), (prior, out)]:
                if source:
                    (self.work / name).parent.mkdir(parents=True, exist_ok=True)
                    copy = shutil.copytree if source.is_dir() else shutil.copy2
                    copy(source, self.work / name)
            code = run()
            if (self.work / out).exists():
                (self.work / out).rename(keep)
            return code
        finally:
            shutil.rmtree(self.path)
            self._aside.rename(self.path)

    def act(self, action: str, *words: str) -> None:
        """Do what a user, or a stranger who made a folder, does: one of the methods below."""
        getattr(self, f"_{action}")(*words)

    def _write(self, version: str, name: str) -> None:
        """Change an input, or (version 0) put it back."""
        first, place = self._template / "work" / name, self.work / name
        content = first.read_bytes() if first.exists() else None
        place.unlink(missing_ok=True)
        if version == "1" or content is not None:
            place.write_bytes(self.changes[name](content or b"{}") if version == "1" else content)
            self.theirs.add(f"work/{name}")

    def _link(self, kind: str, name: str) -> None:
        """Plant a link at a path, in place of what is there. An unfinished build gets the mark that it is ours."""
        place, top = self.work / name, self.work / name.split("/")[0]
        folders = [self.work / folder for folder in Path(name).parents]
        if any(folder.is_file() or folder.is_symlink() for folder in folders):
            return
        remove(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = top.name.endswith(PARTIAL) and top in place.parents
        if unfinished and place.name != STATE and not (top / STATE).exists():
            write_json(top / STATE, {"made_by": "patch-compile", "stages": {}})
        if kind == "hard":
            place.hardlink_to(self.path / "precious/file")
        else:
            place.symlink_to(self.path / "precious" / kind)
        self.planted.append(place)

    def _keep(self, name: str) -> None:
        """Put a file of the user at a path where nothing is, or a copy of the model as a folder."""
        place = self.work / name
        if not place.parent.is_dir() or os.path.lexists(place):
            return
        if name.endswith("src"):
            shutil.copytree(self.work / "model", place)
        else:
            place.write_text(_PRECIOUS)
        self.planted.append(place)
        files = [place, *place.rglob("*")]
        self.theirs |= {str(file.relative_to(self.path)) for file in files if file.is_file()}

    def _damage(self, name: str) -> None:
        """Lose half of a file that a command wrote."""
        place = self.work / name
        if place.is_file() and not place.is_symlink() and place.stat().st_nlink == 1:
            content = place.read_bytes()
            place.unlink()
            place.write_bytes(content[: len(content) // 2])

    def _tidy(self) -> None:
        """Take links and the user's files out of OUT again."""
        for place in filter(os.path.lexists, self.planted):
            remove(place)
        gone = {str(place.relative_to(self.path)) for place in self.planted}
        self.theirs = {one for one in self.theirs if not gone & {one, *map(str, Path(one).parents)}}
        self.planted = []


def _json_with(**settings: object) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(json.loads(content) | settings, indent=2).encode()


# How each input changes. Two files of the model are not there at first.
_CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "model/config.json": _json_with(transformers_version="4.99.0"),
    "model/generation_config.json": _json_with(temperature=0.5, do_sample=True),
    # Two words change places.
    "model/tokenizer.json": lambda text: text.replace(b'"cat"', b"@").replace(b'"sat"', b'"cat"').replace(b"@", b'"sat"'),
    "model/tokenizer_config.json": _json_with(model_max_length=77),
    "model/model.safetensors": lambda content: content[:-64] + bytes(64),
    "model/chat_template.jinja": lambda content: b"{{ messages }}",
    "model/README.md": lambda content: b"---\nlicense: mit\n---\n",
    "text.txt": lambda content: " ".join(reversed(TEXT.split())).encode(),
    "recipe.yaml": lambda content: _RECIPE.format(0.3).encode(),
}  # fmt: skip


def _entries(top: str, folder: str) -> Iterator[tuple[str, Entry]]:
    for found in os.scandir(f"{top}/{folder}"):
        state, path = found.stat(follow_symlinks=False), f"{folder}{found.name}"
        if stat.S_ISLNK(state.st_mode):
            yield path, ("link", str(Path(found.path).readlink()))
        elif stat.S_ISDIR(state.st_mode):
            yield path, ("folder",)
            yield from _entries(top, f"{path}/")
        else:
            yield path, ("file", state.st_ino, state.st_size, state.st_mtime_ns, state.st_mode)
