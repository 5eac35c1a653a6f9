"""Values that are hostile in any format, and the parts of a safetensors file."""

from __future__ import annotations

import json
import struct
from typing import Any

_MANY_DIGITS = "@digits@"  # a number of more digits than Python makes an int of


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
