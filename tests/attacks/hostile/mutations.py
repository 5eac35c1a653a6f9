"""Changes of files that hold for every format: values of another type, files that are no files, text that is none."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.attacks.hostile.case import draw

__all__ = ["PLACES", "TEXTS", "dump", "fields", "nested", "swapped"]

_MANY_DIGITS = "@digits@"  # a number of more digits than Python makes an int of
_PATHS = {"escape": "../../outside", "absolute": "/etc/passwd"}


def nested(depth: int) -> Any:
    """Returns lists in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


VALUES: dict[str, Any] = {
    "null": None, "true": True, "-1": -1, "0": 0, "2**63": 2**63, "10**400": 10**400, "digits": _MANY_DIGITS,
    "1e308": 1e308, "nan": float("nan"), "inf": float("inf"), "0.5": 0.5, "empty text": "",
    "colours": "\x1b[31mred\x1b[0m\x07",
    "long text": "x" * 100_000, "NUL": "a\0b", "half a character": "\ud800", "list": [], "object": {}, "lists": nested(3),
    "object of null": {"": None}, "many": [None] * 1000, "deep": nested(300), "words": "cat", "number as text": "4",
    **_PATHS,
}  # fmt: skip


def fields(value: Any, most: int = 10_000) -> list[tuple[str | int, ...]]:
    """Returns the paths of the values in a JSON value, of lists only the first element, in order."""
    found: list[tuple[str | int, ...]] = []

    def walk(part: Any, path: tuple[str | int, ...]) -> None:
        if path:
            found.append(path)
        if isinstance(part, dict):
            for key, inner in part.items():
                walk(inner, (*path, key))
        elif isinstance(part, list) and part:
            walk(part[0], (*path, 0))

    walk(value, ())
    return found[:most]


def swapped(value: Any, each: int, seed: str) -> Iterator[tuple[str, Any]]:
    """Yield (name, JSON value) with one field replaced by a hostile value, `each` times for every field, or removed."""
    for path in fields(value):
        where = ".".join(map(str, path))
        random = draw(f"{seed}/{where}")
        for name in [*random.sample(sorted(VALUES), each), *(["gone"] if random.random() < 0.3 else [])]:
            changed = copy.deepcopy(value)
            *above, last = path
            inside = changed
            for step in above:
                inside = inside[step]
            if name == "gone":
                del inside[last]
            else:
                inside[last] = VALUES[name]
            yield f"{where} = {name}", changed


def dump(value: Any) -> str:
    """Returns a JSON text, also of what JSON does not have."""
    return json.dumps(value, indent=1).replace(f'"{_MANY_DIGITS}"', "9" * 5000)


# Texts in the place of JSON or YAML.
TEXTS: dict[str, bytes] = {
    "a list": b"[1, 2, 3]",
    "a number": b"17",
    "a word": b'"stranger"',
    "null": b"null",
    "not UTF-8": b'{"a": "\xff\xfe\x80"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a key twice": b'{"a": 1, "a": 2}',
    "not a number": b'{"a": NaN, "b": -Infinity}',
    "ends early": b'{"a": [1, 2',
    "text behind it": b'{"a": 1} {"b": 2}',
    "HTML": b"<!doctype html><html><body>404</body></html>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 12345\n",
    "colours": b"\x1b[31m\x1b]0;title\x07{",
}


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(4096))


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 4 << 30)


def _noise(path: Path) -> None:
    path.write_bytes(draw("noise").randbytes(10_000))


def _pickle(path: Path) -> None:
    """A pickle that writes the file which HOSTILE_CANARY names, if anything loads it."""
    code = b"cbuiltins\nexec\n(Vimport os; open(os.environ['HOSTILE_CANARY'], 'w')\ntR."
    path.write_bytes(code)


def _torch_pickle(path: Path) -> None:
    import io
    import zipfile

    inner = io.BytesIO()
    _pickle(place := path.with_name("stranger.pickled"))
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("archive/data.pkl", place.read_bytes())
        archive.writestr("archive/version", "3")
    place.unlink()
    path.write_bytes(inner.getvalue())


def _dangling(path: Path) -> None:
    path.symlink_to("nothing-here")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


# What may stand in the place of any file.
PLACES: dict[str, Callable[[Path], None]] = {
    "empty": _empty,
    "zeros": _zeros,
    "4 GiB of nothing": _sparse,
    "noise": _noise,
    "a pickle": _pickle,
    "a pickle of torch": _torch_pickle,
    "a folder": Path.mkdir,
    "a FIFO": lambda path: os.mkfifo(path),
    "a dangling link": _dangling,
    "a link to itself": _loop,
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to /dev/null": lambda path: path.symlink_to("/dev/null"),
}
