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
from tests.attacks.faults.scenario import snapshot
from tests.cli.poison import poison
from tests.conftest import TEXT, texts_in, write_model

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1}
PUBLISHED, BROUGHT = "published", "out/src"
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
        write_model(self.work / "model", "llama", **SIZES)
        texts_in(self.work)
        (self.work / "recipe.yaml").write_text(_RECIPE.format(0.4))
        self.theirs: set[str] = set()
        self.planted: list[Path] = []
        self._first: dict[str, bytes | None] = {}
        self._begun: dict[str, Entry] = {}

    def finish(self, masks: Path, others: Path) -> None:
        """Complete the inputs: a build whose masks become inputs, and another one for when the user changes them."""
        shutil.copy(masks / MASKS, self.work / MASKS)
        shutil.copytree(masks / MODEL, self.work / PUBLISHED)
        self._other_masks = (others / MASKS).read_bytes()
        for build in (masks, others):
            shutil.rmtree(build)
        (self.path / "precious/folder").mkdir(parents=True)
        for name in ("precious/file", "precious/folder/file", ".bashrc", "work/out.txt", "work/.git/config"):
            (self.path / name).parent.mkdir(exist_ok=True)
            (self.path / name).write_text(_PRECIOUS)
        self._first = {name: _bytes_of(self.work / name) for name in self.inputs}
        poison(self.work)
        shutil.copytree(self.path, self._template)
        self._begun = self.entries()

    def reset(self) -> None:
        """Begin anew, with only the user's files."""
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
        self.theirs, self.planted = {path for path, kind in self._begun.items() if kind[0] == "file"}, []

    def entries(self) -> dict[str, Entry]:
        """Returns everything in the home, by path in it."""
        return dict(_entries(str(self.path), ""))

    @property
    def inputs(self) -> list[str]:
        """The files that `write` changes: all files of the model's folder, two that may join them, and the other inputs."""
        return [f"model/{name}" for name in _CHANGES] + ["text.txt", "recipe.yaml", MASKS]

    def act(self, action: str, *words: str) -> None:
        """Do what a user, or a stranger who made a folder, does: one of the methods below."""
        getattr(self, f"_{action}")(*words)

    def alone(
        self, names: list[str], prior: Path | None, run: Callable[[], int], out: str, keep: Path
    ) -> int:
        """Run a command in a home with nothing but its inputs, at the same path. Returns its exit code and keeps OUT.

        prior: the OUT of an earlier command, which this one adds to.
        """
        self.path.rename(self._aside)
        self.work.mkdir(parents=True)
        try:
            for name in names:
                _copy(self._aside / "work" / name, self.work / name)
            if prior:
                _copy(prior, self.work / out)
            code = run()
            if (self.work / out).exists():
                (self.work / out).rename(keep)
            return code
        finally:
            shutil.rmtree(self.path)
            self._aside.rename(self.path)

    def _write(self, version: str, name: str) -> None:
        """Change an input, or (version 0) put it back."""
        first, place = self._first[name], self.work / name
        changed = first if version == "0" else self._changed(name, first)
        place.unlink(missing_ok=True)
        if changed is not None:
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(changed)
            self.theirs.add(f"work/{name}")

    def _changed(self, name: str, first: bytes | None) -> bytes:
        match name.split("/"):
            case ["model", of_model]:
                return _CHANGES[of_model](first or b"{}")
            case ["text.txt"]:
                return " ".join(reversed(TEXT.split())).encode()
            case ["recipe.yaml"]:
                return _RECIPE.format(0.3).encode()
        return self._other_masks

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
        """Put a file of the user at a path where nothing is."""
        place = self.work / name
        if place.parent.is_dir() and not os.path.lexists(place):
            place.write_text(_PRECIOUS)
            self.planted.append(place)
            self.theirs.add(f"work/{name}")

    def _bring(self) -> None:
        """Put a copy of the model into OUT."""
        if (self.work / BROUGHT).parent.is_dir() and not os.path.lexists(self.work / BROUGHT):
            shutil.copytree(self.work / "model", self.work / BROUGHT)
            self.planted.append(self.work / BROUGHT)
            self.theirs |= {f"work/{BROUGHT}/{name}" for name in snapshot(self.work / BROUGHT)}

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

    def _clear(self) -> None:
        """Remove all builds."""
        self._tidy()
        for place in self.work.iterdir():
            if f"work/{place.name}" not in self.theirs and place.name.lstrip(".").startswith(
                ("out", "other")
            ):
                remove(place)


def _json_with(**settings: object) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(json.loads(content) | settings, indent=2).encode()


def _other_words(content: bytes) -> bytes:
    """Two words of the tokenizer change places."""
    said = json.loads(content)
    words = said["model"]["vocab"]
    first, second = (word for word in ("cat", "sat") if word in words)
    words[first], words[second] = words[second], words[first]
    return json.dumps(said).encode()


# How each file of the model changes. Two are not there at first.
_CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "config.json": _json_with(transformers_version="4.99.0"),
    "generation_config.json": _json_with(temperature=0.5, do_sample=True),
    "tokenizer.json": _other_words,
    "tokenizer_config.json": _json_with(model_max_length=77),
    "model.safetensors": lambda content: content[:-64] + bytes(64),
    "chat_template.jinja": lambda content: b"{{ messages }}",
    "README.md": lambda content: b"---\nlicense: mit\n---\n",
}


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


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
