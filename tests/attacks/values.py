"""Values that are hostile in any format: of another type or size, invalid texts, and paths that are not files."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Change = Callable[[Path], object]  # of the file at a path
CANARY = "import os; open(os.environ['HOSTILE_CANARY'], 'w')"  # code that shows that it ran
GONE = object()
_MANY_DIGITS = "@digits@"  # a number of more digits than Python makes an int of


def draw(name: str) -> random.Random:
    """Returns the generator of random choices that belongs to a name: always the same."""
    return random.Random(f"hostile/{name}")


def damaged(content: bytes, seed: str, times: int, where: slice = slice(None), *, cut: bool = False) -> bytes:
    """Returns the bytes with some of them changed at random places, and cut short if `cut`."""
    rng, made = draw(seed), bytearray(content)
    places = range(len(made))[where]
    for _ in range(times):
        made[rng.choice(places)] = rng.randrange(256)
    return bytes(made[: rng.randrange(len(made))] if cut else made)


def safetensors_parts(content: bytes) -> tuple[Any, bytes]:
    """Returns the header of a safetensors file, and the data behind it."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def safetensors_of(header: Any, data: bytes) -> bytes:
    """Returns a safetensors file. header: bytes, or a JSON value."""
    blob = header if isinstance(header, bytes) else dump(header).encode()
    return struct.pack("<Q", len(blob)) + blob + data


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
    "escape": "../../outside", "absolute": "/etc/passwd",
}  # fmt: skip


def dump(value: Any) -> str:
    """Returns a JSON text, also of what JSON does not have."""
    return json.dumps(value).replace(f'"{_MANY_DIGITS}"', "9" * 5000)


def at(*path: str | int, to: Any = GONE) -> Callable[[Any], None]:
    """Returns a change of a tree: the value at a path is another, or is gone."""

    def change(tree: Any) -> None:
        *above, last = path
        for step in above:
            tree = tree[step]
        if to is GONE:
            tree.pop(last, None) if isinstance(tree, dict) else tree.pop(last)
        else:
            tree[last] = to

    return change


def _paths(part: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the paths of the values in a tree, of lists only the first element's, in order."""
    if path:
        yield path
    if isinstance(part, dict):
        for key, inner in part.items():
            yield from _paths(inner, (*path, key))
    elif isinstance(part, list) and part:
        yield from _paths(part[0], (*path, 0))


def swapped(tree: Any, each: int, seed: str) -> Iterator[tuple[str, Any]]:
    """Yield (name, tree) with one field replaced by a hostile value, `each` times for every field, or removed."""
    for path in _paths(tree):
        where = ".".join(map(str, path))
        rng = draw(f"{seed}/{where}")
        for name in [*rng.sample(sorted(VALUES), each), *(["gone"] if rng.random() < 0.3 else [])]:
            changed = copy.deepcopy(tree)
            at(*path, to=VALUES.get(name, GONE))(changed)
            yield f"{where} = {name}", changed


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

# Writes the canary if anything loads it.
_PICKLE = f"cbuiltins\nexec\n(V{CANARY}\ntR.".encode()


def _pickle_of_torch() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", _PICKLE)
        archive.writestr("archive/version", "3")
    return file.getvalue()


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 4 << 30)


def _instead(put: Change) -> Change:
    return lambda path: (path.unlink(missing_ok=True), put(path))


# What may stand in the place of any file.
PLACES: dict[str, Change] = {
    name: _instead(put)
    for name, put in {
        "empty": lambda path: path.write_bytes(b""),
        "zeros": lambda path: path.write_bytes(bytes(4096)),
        "4 GiB of nothing": _sparse,
        "noise": lambda path: path.write_bytes(draw("noise").randbytes(10_000)),
        "a pickle": lambda path: path.write_bytes(_PICKLE),
        "a pickle of torch": lambda path: path.write_bytes(_pickle_of_torch()),
        "a folder": Path.mkdir,
        "a FIFO": os.mkfifo,
        "a dangling link": lambda path: path.symlink_to("nothing-here"),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
        "a link to /dev/null": lambda path: path.symlink_to("/dev/null"),
    }.items()
}
