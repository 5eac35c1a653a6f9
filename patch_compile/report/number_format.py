"""Spells numbers for readers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from masklearn.masks.kinds.table import PRUNED, TWO_FOUR
from patch_compile.artifacts.record import Unit

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_HASH = 12  # characters of a sha256 that distinguish files


def number(value: float | None, digits: int = 3) -> str:
    """Returns a number with significant digits, with powers of ten in place of rows of zeros."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        places = max(0, digits - 1 - (math.floor(math.log10(abs(value))) if value else 0))
        return _sign(f"{value:,.{places}f}")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    return _sign(f"{mantissa} × {power}")


def found_error(error: float | None) -> str:
    return "not finite" if error is None else number(error)


def percent(share: float | None, digits: int = 0) -> str:
    """Returns 40% for 0.4. A share too small for the digits keeps two significant digits."""
    if share is None:
        return "–"
    if share and abs(share) * 100 < 10.0**-digits:
        return f"{number(share * 100, 2)}%"
    return _sign(f"{share * 100:.{digits}f}%")


def change(new: float, old: float) -> str:
    """Returns the relative change over the old value: +48%, −3.1%."""
    if not old or not math.isfinite(new):
        return "–"
    share = new / old - 1
    digits = 1 if abs(share) < 0.1 else 0
    text = f"{share * 100:+,.{digits}f}%"
    return _sign("±0%" if float(text.strip("%").replace(",", "")) == 0 else text)


def perplexity(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def times(factor: float) -> str:
    return f"{factor:.2f}×"


def milliseconds(value: float) -> str:
    """Returns three significant digits, the precision of a clock."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def bytes_of(size: float) -> str:
    """Returns a size in powers of 1000, as for disks."""
    for unit, word in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{number(size / unit)} {word}"
    return f"{size:.0f} bytes"


def seconds(value: float) -> str:
    """Returns a time: 12 s, 3 min 20 s, 1 h 5 min."""
    if value < 100:
        return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def shape_of(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def sha(digest: str | None) -> str:
    return digest[:_HASH] if digest else "–"


def spelled(value: Any, unit: Unit, *, bare: bool = False) -> str:
    """Returns a value of a record in its unit; words unchanged. bare: without the name of the unit."""
    if unit is Unit.WORDS or (unit is Unit.NUMBER and isinstance(value, int)):
        return str(value)
    words = _UNITS.get(unit, number)(value)
    return f"{words} {unit.value}" if unit in _NAMED and not bare else words


def joined(words: Sequence[str]) -> str:
    """Returns words as a list: one, two and three."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _sign(text: str) -> str:
    return text.replace("-", "−")


def kind_class(kind: str) -> str:
    """Returns the class of page.css that colours tiles of a kind."""
    return "two-four" if kind == TWO_FOUR.name else f"of-{PRUNED[kind].group}-{PRUNED[kind].kept}"


_UNITS: dict[Unit, Callable[[Any], str]] = {
    Unit.QUOTE: repr,
    Unit.RATIO: lambda ratio: f"{ratio:.3f}",
    Unit.CHANGE: lambda share: change(1.0 + share, 1.0),
    Unit.SHARE: lambda share: percent(share, 1),
    Unit.PERPLEXITY: perplexity,
    Unit.COUNT: "{:,}".format,
    Unit.TIMES: times,
    Unit.BYTES: bytes_of,
    Unit.MEGABYTES: lambda size: milliseconds(size / 1e6),
    Unit.MICROSECONDS: milliseconds,
    Unit.MILLISECONDS: lambda time: milliseconds(float(time)),
    **dict.fromkeys((Unit.MEGAHERTZ, Unit.WATTS, Unit.CELSIUS), str),
}
_NAMED = {
    Unit.NATS, Unit.MEGABYTES, Unit.MICROSECONDS, Unit.MILLISECONDS, Unit.MEGAHERTZ, Unit.WATTS, Unit.CELSIUS,
}  # fmt: skip
