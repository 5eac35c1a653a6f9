"""Weight types that a user asks for: the value of `weights`, and the types that it gives each linear.

It is a type such as `int8`, or `PATTERN=TYPE,PATTERN=TYPE,…` such as `mlp.*=int4,v_proj=float16`, with the patterns of
`masklearn.masks.name_globs`. A type in front of all patterns is for the linears that no pattern fits, which otherwise keep
the type that a quantised checkpoint gives them, or have 16 bits. The last pattern that fits a linear decides.

There may be several types in place of a type, as in `int8,int4` or `mlp.*=int8,int4,v_proj=int8`: types between two
patterns belong to the first. `auto` means all types that fit a linear. Learning then chooses a type for each linear
(`masklearn.masks.select_types`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from masklearn.base.errors import MaskLearnError, UsageError
from masklearn.masks.kinds.allowed import AUTO
from masklearn.masks.name_globs import decide, entries, parse_pattern, spell_by_name
from masklearn.quant.table import FLOAT16, QUANTISED, WEIGHT_TYPES, WeightType, weight_type

_Pairs = list[tuple[str, tuple[str, ...]]]
Types = tuple[WeightType, ...]


def parse_weights(text: str) -> str:
    """Check a value of `weights` and return it in its shortest form. Raises a ValueError of one line for another text."""
    return ",".join(
        f"{pattern}={','.join(kinds)}" if pattern else ",".join(kinds) for pattern, kinds in _pairs(text)
    )


def named_types(text: str | None) -> Types:
    """Returns the types that the value names, in the table's order; text: None for no value. `auto` names only the
    integer types."""
    named = {kind for _, kinds in _pairs(text) for kind in kinds} if text else set()
    if AUTO in named:
        named.update(QUANTISED)
    return tuple(kind for kind in WEIGHT_TYPES.values() if kind.name in named)


def leaves_choice(text: str | None) -> bool:
    return text is not None and any(len(kinds) > 1 or AUTO in kinds for _, kinds in _pairs(text))


def allowed_types(
    text: str | None,
    shapes: Mapping[str, tuple[int, int]],
    given: Mapping[str, WeightType] = MappingProxyType({}),
    *,
    by_time: bool = False,
) -> dict[str, Types]:
    """Returns the types that each linear may have: a single type, unless the value leaves a choice.

    text: None for no value; shapes: (N, K) by linear; given: types of linears that a quantised checkpoint has, which they
    keep unless the value names others; by_time: True if types are chosen by the time that they take. `auto` leaves out types
    whose spans do not divide K, and without `by_time` types whose inputs have 8 bits too: they take as many bytes as others,
    and lose more. Raises MaskLearnError for a named type whose spans do not, and as `names.decide` does.
    """
    found: dict[str, Types] = {}
    for name, pair in decide(_pairs(text) if text else [], list(shapes), "`weights`").items():
        columns = shapes[name][1]
        if pair is None or (pair[1] == (AUTO,) and name in given):
            found[name] = (given.get(name, FLOAT16),)
        elif pair[1] == (AUTO,):
            offered = (kind for kind in QUANTISED.values() if by_time or kind.input_bits > 8)
            found[name] = tuple(kind for kind in (FLOAT16, *offered) if kind.fits(columns))
        else:
            found[name] = tuple(kind for kind in WEIGHT_TYPES.values() if kind.name in pair[1])
            _check_fits(name, found[name], columns)
    return found


def quantised_types(
    text: str | None,
    shapes: Mapping[str, tuple[int, int]],
    given: Mapping[str, WeightType] = MappingProxyType({}),
) -> dict[str, WeightType]:
    """Returns the types of the linears that are quantised. The others have 16 bits.

    For the arguments and errors see `allowed_types`. Also raises UsageError if the value leaves a choice.
    """
    allowed = allowed_types(text, shapes, given)
    if any(len(kinds) > 1 for kinds in allowed.values()):
        raise undecided(text)
    return {name: kinds[-1] for name, kinds in allowed.items() if kinds[-1].quantised}


def undecided(text: str | None) -> UsageError:
    """Returns the error for a value that leaves a choice where nothing can choose."""
    return UsageError(
        f"`weights` {text} leaves a choice of types, and no setting decides it",
        "Types are chosen for a speed or for bytes, at the least loss of quality.",
        "Give `speedup` or, in `learn`, `bytes_per_weight`; or name one type for each linear, such as "
        "`weights` int8.",
    )


def spell_types(types: Mapping[str, WeightType]) -> str:
    """Returns a value of `weights` that gives these linears these types; types: of all linears, by name."""
    return spell_by_name({name: kind.name for name, kind in types.items()}, FLOAT16.name)


def _check_fits(name: str, kinds: Types, columns: int) -> None:
    for kind in kinds:
        if columns > kind.most_columns:
            raise MaskLearnError(
                f"{name} can't have {kind} weights",
                f"Sums of its {columns} products of integers may not fit int32; {kind} has at most {kind.most_columns}.",
                f"Give {name.rpartition('.')[2]}=int8 behind a comma: its inputs have 16 bits.",
            )
        if not kind.fits(columns):
            raise MaskLearnError(
                f"{name} can't have {kind} weights",
                f"{kind} has a scale for every {kind.span} columns, and K is {columns}, not a multiple of {kind.span}.",
                f"Give {name.rpartition('.')[2]}=int8 behind a comma: int8 has one scale for a whole row.",
            )


def _pairs(text: str) -> _Pairs:
    pairs: _Pairs = []
    for entry in entries(text):
        pattern, equals, kind = (part.strip() for part in entry.rpartition("="))
        if equals and not pattern:
            raise ValueError(f"{entry.strip()!r} has no pattern in front of the =.")
        if kind != AUTO:
            weight_type(kind)
        if equals or not pairs:
            pairs.append((parse_pattern(pattern) if equals else "", (kind,)))
        else:
            pairs[-1] = pairs[-1][0], (*pairs[-1][1], kind)
    for _, kinds in pairs:
        _check_list(kinds)
    return pairs


def _check_list(kinds: tuple[str, ...]) -> None:
    """Raises a ValueError of one line for a faulty list of types."""
    spelled = ",".join(kinds)
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"{spelled} names a type twice.")
    if AUTO in kinds and len(kinds) > 1:
        raise ValueError(f"{spelled} names {AUTO} and other types. Give only one of the two.")
    if sum(kind != AUTO and not weight_type(kind).quantised for kind in kinds) > 1:
        raise ValueError(f"{spelled} names two types of 16 bits, and a graph has only one.")
