"""Makes text of files that anybody may have written safe to print.

A terminal obeys control characters: names in a file could clear the screen, hide a line, or write another line in
its place. Characters that reorder text make it look like another text. Letters of every language stay as they are.
"""

from __future__ import annotations

import json
import re
import reprlib
from typing import Any

# C0 and C1 but tab and newline, invisible and reordering format characters (not the joiners of scripts and emoji),
# separators of lines, and half surrogate pairs, which no terminal's encoding has.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_SHOWN = 80  # characters of a value in an error
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 3, 4, 4
_SHORT.maxstring = _SHORT.maxother = _SHOWN


def counted(count: int, noun: str) -> str:
    """Returns a number of things in words: 1 window, 1,024 windows."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def printable(text: str) -> str:
    """Returns a text in which characters that a terminal would obey are spelled, such as \\x1b. It keeps lines and tabs."""
    return _UNSAFE.sub(_spelled, text)


def one_line(text: str) -> str:
    """Returns a printable text in which ends of lines are spelled too."""
    return printable(text).replace("\n", "\\n")


def json_printable(text: str) -> str:
    """Returns a JSON text of the same value in which characters that a terminal would obey are escaped."""
    return _UNSAFE.sub(lambda found: json.dumps(found.group())[1:-1], text)


def shown(value: Any) -> str:
    """Returns a value for an error: text as it is, at most 80 characters of anything.

    Values of a file may be nested in themselves thousands of times, so their own repr can be larger than the memory.
    """
    try:
        text = value if isinstance(value, str) else _SHORT.repr(value)
    except ValueError:  # Python spells no integer of more than 4300 digits
        return f"an {type(value).__name__} that is too long to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _spelled(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
