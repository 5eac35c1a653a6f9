"""Reads files that anybody may have written: regular files only, links that stay in their folder, and bounded JSON.

Opening a FIFO waits forever, and a device never ends. A link in a folder that somebody else made may point to any file of
this machine, whose bytes would then be copied into a build. A hub cache consists of links too:
`models--X/snapshots/REVISION/file` points to `models--X/blobs/SHA`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any, NoReturn

from masklearn.base.errors import MaskLearnError
from masklearn.base.printable import shown

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def require_file(path: Path) -> os.stat_result:
    """Returns the status of a regular file, following links. Raises OSError, with a sentence, if it is anything else."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"It is {kind}, not a file", str(path))
    return status


def sha256_of(path: Path) -> str:
    """Returns the sha256 of a file, which is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def leads_out(folder: Path, file: Path) -> str:
    """Returns the target of a path below a folder if the target is outside the folder, else "".

    The blobs of the hub cache that the folder lies in count as inside.
    """
    try:
        home, target = folder.resolve(), file.resolve()
        target.stat()
    except FileNotFoundError:
        pass  # a link to nothing
    except (OSError, RuntimeError) as error:
        loop = isinstance(error, RuntimeError) or error.errno == errno.ELOOP
        return "itself in the end" if loop else str(error)
    blobs = [above.parent / "blobs" for above in home.parents if above.name == "snapshots"]
    return "" if any(target.is_relative_to(inside) for inside in (home, *blobs[:1])) else str(target)


def check_links(folder: Path) -> None:
    """Raises MaskLearnError for a link in a folder, or in its sub-folders, that leads out of it or in a circle.

    Hidden sub-folders, such as .git and .cache, are not read and not checked.
    """
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*folders, *files):
            file = Path(place, name)
            if file.is_symlink():
                check_link(folder, file)


def check_link(folder: Path, file: Path) -> None:
    """Raises MaskLearnError for a link below a folder that leads out of it or in a circle."""
    if target := leads_out(folder, file):
        raise MaskLearnError(
            f"{file} is a link out of its folder",
            f"It leads to {target}, and a model's folder is read, and copied into a build, by itself.",
            "Put a copy of the file there, or give the folder in which the files lie.",
        )
    # Folders that lie in sub-folders are copied with these, and a link to a folder could lead back.
    if file.is_dir() and (file.parent != folder or file.resolve() == folder.resolve()):
        raise MaskLearnError(
            f"{file} is a link to a folder",
            f"It leads to {file.readlink()}, and sub-folders of a model are copied as they are.",
            "Put a copy of the folder there, or remove the link.",
        )


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_MOST_BYTES = 64 << 20  # an index of 90,000 tensors has 9 MB; empty lists take 20 times their text in memory


def read_json(path: Path, *, finite: bool = True) -> Any:
    """Returns the content of a JSON file. Raises OSError, and ValueError as `parse_json` does and for a huge file."""
    size = require_file(path).st_size
    if size > _MOST_BYTES:
        raise ValueError(f"It has {size >> 20} MiB, and at most {_MOST_BYTES >> 20} are read.")
    return parse_json(path.read_bytes(), finite=finite)


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """Returns the value of a JSON text.

    Raises ValueError, with the reason as a sentence, for anything else: text that is not UTF-8, nesting that is too deep for
    the parser, a key twice in one object, half of a surrogate pair, an integer of more than 308 digits, the numbers NaN
    and Infinity, which JSON does not have, and numbers such as 1e999, which become infinite.

    finite: False allows NaN and infinite numbers, which transformers writes into some models' config.json.
    """
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(
            decoded,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_finite if finite else None,
            parse_constant=_no_number if finite else None,
        )
        if _SURROGATE.search(decoded):  # rare; whole pairs pass
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except UnicodeEncodeError:
        raise ValueError("A text in it has half of a surrogate pair, which is not a character.") from None
    except RecursionError:
        raise ValueError("It is nested too deeply.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"It is not UTF-8 at byte {error.start}.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} in line {error.lineno}, column {error.colno}.") from None


def json_object(value: Any) -> dict[str, Any]:
    """Returns a value from `parse_json` that is an object. Raises ValueError for any other value."""
    if not isinstance(value, dict):
        raise ValueError(f"It is {shown(value)}, not an object.")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"An object has the key {twice!r} twice.")
    return made


def _integer(text: str) -> int:
    # With more digits arithmetic with floats overflows.
    digits, most = len(text.lstrip("-")), sys.float_info.max_10_exp
    if digits > most:
        raise ValueError(f"An integer in it has {digits} digits, and at most {most} are read.")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"The number {text[:40]} is larger than any float.")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number.")
