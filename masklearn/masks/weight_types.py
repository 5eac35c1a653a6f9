"""Weight types that a user asks for: the value of `--weights`, and what it means for each linear.

It is a type such as `int8`, or `PATTERN=TYPE,PATTERN=TYPE,…` such as `mlp.*=int4,v_proj=float16`, with the patterns of
`masklearn.masks.names`. A type in front of all patterns is for the linears that none of them fits, which else keep the type
that a quantised checkpoint gives them, or have 16 bits. The last pattern that fits a linear decides.
"""

from collections.abc import Mapping
from types import MappingProxyType

from masklearn.errors import PatchCompileError
from masklearn.masks.kinds.allowed import AUTO
from masklearn.masks.names import decide, entries, parse_pattern
from masklearn.weights.table import WEIGHT_TYPES, WeightType, weight_type

__all__ = ["named_types", "parse_weights", "quantised_types"]

_Pairs = list[tuple[str, WeightType]]


def parse_weights(text: str) -> str:
    """Check a value of `--weights` and return it in its shortest form. Raises a ValueError of one line for another text."""
    return ",".join(f"{pattern}={kind}" if pattern else f"{kind}" for pattern, kind in _pairs(text))


def named_types(text: str | None) -> tuple[WeightType, ...]:
    """Returns the types that the value names, in the table's order; text: None for no value."""
    named = [kind for _, kind in _pairs(text)] if text else []
    return tuple(kind for kind in WEIGHT_TYPES.values() if kind in named)


def quantised_types(
    text: str | None,
    shapes: Mapping[str, tuple[int, int]],
    given: Mapping[str, WeightType] = MappingProxyType({}),
) -> dict[str, WeightType]:
    """Returns the types of the linears that are quantised. The others have 16 bits.

    text: None for no value; shapes: (N, K) by linear; given: types of linears that a quantised checkpoint has, which they
    keep unless the value names another. Raises PatchCompileError for a linear whose K the spans of its type do not divide,
    and as `names.decide` does.
    """
    if text is None:
        return {name: given[name] for name in shapes if name in given}
    found: dict[str, WeightType] = {}
    for name, pair in decide(_pairs(text), list(shapes), "--weights").items():
        kind, columns = pair[1] if pair else given.get(name), shapes[name][1]
        if kind is None or not kind.quantised:
            continue
        if not kind.fits(columns):
            raise PatchCompileError(
                f"{name} can't have {kind} weights",
                f"{kind} has a scale for every {kind.span} columns, and K is {columns}, no multiple of {kind.span}.",
                f"Give {name.rpartition('.')[2]}=int8 behind a comma: int8 has one scale for a whole row.",
            )
        found[name] = kind
    return found


def _pairs(text: str) -> _Pairs:
    pairs: _Pairs = []
    for entry in entries(text):
        pattern, equals, kind = (part.strip() for part in entry.rpartition("="))
        if equals and not pattern:
            raise ValueError(f"{entry.strip()!r} has no pattern in front of the =.")
        if pairs and not equals:
            raise ValueError(
                f"{entry.strip()!r} is not PATTERN=TYPE. Only the first entry may be a type alone."
            )
        if kind == AUTO:
            raise ValueError(
                "Weight types are not chosen by themselves. `patch-compile plan` shows them side by side."
            )
        pairs.append((parse_pattern(pattern) if equals else "", weight_type(kind)))
    return pairs
