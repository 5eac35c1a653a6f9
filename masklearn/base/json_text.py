"""Parses JSON that anybody may have written: bounded in size and depth, and the same for every reader."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

from masklearn.base.regular_file import require_file

__all__ = ["json_type", "parse_json", "read_json"]

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
    the parser, a key twice in one object, half of a surrogate pair, and the numbers NaN and Infinity, which JSON does not
    have.

    finite: False allows these numbers, which transformers writes into some models' config.json.
    """
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(decoded, object_pairs_hook=_object, parse_constant=_no_number if finite else None)
        if _SURROGATE.search(decoded):  # rare; whole pairs pass
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except UnicodeEncodeError:
        raise ValueError("A text in it has half of a surrogate pair, which is no character.") from None
    except RecursionError:
        raise ValueError("It is nested too deeply.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"It is not UTF-8 at byte {error.start}.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} in line {error.lineno}, column {error.colno}.") from None


def json_type(value: Any) -> str:
    """Returns what JSON calls a value that `parse_json` returned, with its article (RFC 8259, section 3)."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names = {dict: "an object", list: "an array", str: "a string", int: "a number", float: "a number"}
    return names[type(value)]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"An object has the key {twice!r} twice.")
    return made


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number.")
