"""What the linears of a model may be: the weight types, and the kinds of tiles, that a user allows.

`weights` and `kinds` are lists such as `int8,int4` or `8:16,12:16`, or `PATTERN=LIST,PATTERN=LIST,…` such as
`mlp.*=int8,int4,v_proj=int8` (`name_globs.parse_lists`); `auto` means all that fit a linear. Linears that no pattern fits
keep the type that a quantised checkpoint gives them, or have 16 bits, and their tiles are 2:4. If a linear may have several
types, learning chooses one. A tile may always stay dense.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from masklearn.base.errors import MaskLearnError, UsageError
from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import DENSE, PRUNED, TWO_FOUR, kind_named
from masklearn.masks.name_globs import Lists, decide, parse_lists, spell_by_name, spell_lists
from masklearn.quant.table import FLOAT16, INT8, QUANTISED, W8A8, WEIGHT_TYPES, WeightType, weight_type

AUTO = "auto"
AUTO_KINDS: tuple[TileKind, ...] = tuple(PRUNED[name] for name in ("2:4", "8:16", "12:16", "6:8"))
"""Kinds that `auto` chooses from, as far as they go with the type of the weights."""

Kinds = tuple[TileKind, ...]
Types = tuple[WeightType, ...]
_NO_TYPES: Mapping[str, Types] = MappingProxyType({})


def parse_weights(text: str) -> str:
    """Check a value of `weights` and return it in its shortest form. Raises a ValueError of one line for another text."""
    return spell_lists(_types(text))


def named_types(text: str | None) -> Types:
    """Returns the types that the value names, in the table's order; text: None for no value. `auto` names only the
    integer types."""
    named = {kind for _, kinds in _types(text) for kind in kinds} if text else set()
    if AUTO in named:
        named.update(QUANTISED)
    return tuple(kind for kind in WEIGHT_TYPES.values() if kind.name in named)


def leaves_choice(text: str | None) -> bool:
    return text is not None and any(len(kinds) > 1 or AUTO in kinds for _, kinds in _types(text))


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
    types: dict[str, Types] = {}
    for name, pair in decide(_types(text) if text else [], list(shapes), "`weights`").items():
        columns = shapes[name][1]
        if pair is None or (pair[1] == (AUTO,) and name in given):
            types[name] = (given.get(name, FLOAT16),)
        elif pair[1] == (AUTO,):
            offered = (kind for kind in QUANTISED.values() if by_time or kind.input_bits > 8)
            types[name] = tuple(kind for kind in (FLOAT16, *offered) if kind.fits(columns))
        else:
            types[name] = tuple(kind for kind in WEIGHT_TYPES.values() if kind.name in pair[1])
            _check_columns(name, types[name], columns)
    return types


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


def _check_columns(name: str, kinds: Types, columns: int) -> None:
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


def parse_kinds(text: str) -> str:
    """Check a value of `kinds` and return it in its shortest form. Raises a ValueError of one line if it is misspelled."""
    return spell_lists(_kinds(text))


def only_two_four(text: str) -> bool:
    """True if the value allows no other kind than 2:4 in any linear."""
    return all(kinds == (TWO_FOUR.name,) for _, kinds in _kinds(text))


def spell_kinds(kinds: Mapping[str, Kinds]) -> str:
    """Returns a value of `kinds` that allows these linears these kinds; kinds: of all linears, by name."""
    return spell_by_name(
        {name: ",".join(kind.name for kind in own) for name, own in kinds.items()}, TWO_FOUR.name
    )


def allowed_kinds(
    text: str,
    shapes: Mapping[str, tuple[int, int]],
    tile: tuple[int, int],
    types: Mapping[str, Types] = _NO_TYPES,
) -> dict[str, Kinds]:
    """Returns the kinds that each linear's tiles may have, besides dense.

    shapes: (N, K) by linear; tile: (rows, columns); types: weight types that linears may have. `auto` leaves out kinds whose
    groups do not divide K or the columns of the tiles, and kinds that go with none of the linear's types, which have 16 bits
    if `types` does not say. Raises MaskLearnError for named kinds of that sort, and as `names.decide` does. If `types` does
    not say, every named kind goes with it.
    """
    kinds: dict[str, Kinds] = {}
    for name, pair in decide(_kinds(text), list(shapes), "`kinds`").items():
        columns = shapes[name][1]
        fits = [kind for kind in PRUNED.values() if kind.fits_tiles(columns, tile[1])]
        own = types.get(name, ())
        if pair is None:
            kinds[name] = (TWO_FOUR,)
        elif pair[1] == (AUTO,):
            kinds[name] = tuple(kind for kind in _of_auto(own) if kind in fits)
        else:
            kinds[name] = tuple(map(kind_named, pair[1]))
            _check_fits(name, kinds[name], fits, columns, tile)
            _check_types(name, kinds[name], own or (FLOAT16, W8A8))
    return kinds


def left_out_of_auto(
    text: str,
    shapes: Mapping[str, tuple[int, int]],
    tile: tuple[int, int],
    types: Mapping[str, Types] = _NO_TYPES,
) -> Iterator[str]:
    """Yield lines for the user about kinds that `auto` leaves out, because their groups or their kernels do not fit.

    For the arguments see `allowed_kinds`.
    """
    linears: dict[tuple[Kinds, str], list[str]] = {}
    for name, pair in decide(_kinds(text), list(shapes), "`kinds`").items():
        if pair is None or pair[1] != (AUTO,):
            continue
        own = types.get(name, ())
        go = _of_auto(own)
        if cut := tuple(kind for kind in go if not kind.fits_tiles(shapes[name][1], tile[1])):
            why = f"K or the columns of a tile are not a multiple of {max(kind.span for kind in cut)}"
            linears.setdefault((cut, why), []).append(name)
        # Only kinds for inputs of 16 bits are missed: nobody expects 6:8 where inputs have 16 bits.
        if unfit := tuple(kind for kind in _of_auto(()) if kind not in go):
            why = f"tiles of type {own[-1]} are {listed((DENSE, *go), 'or')}"
            linears.setdefault((unfit, why), []).append(name)
    for (missing, why), names in linears.items():
        yield (
            f"kinds: auto leaves {', '.join(kind.name for kind in missing)} out in {len(names)} of {len(shapes)} linears, "
            f"such as {names[0]}: {why}"
        )


def _of_auto(types: tuple[WeightType, ...]) -> Kinds:
    """Returns the kinds that `auto` means for types of a linear."""
    return tuple(kind for kind in AUTO_KINDS if _goes_with(kind, types or (FLOAT16,)))


def _goes_with(kind: TileKind, types: tuple[WeightType, ...]) -> bool:
    """True if a kind goes with one of the types."""
    return any(kind.goes_with(one) for one in types)


def _check_types(name: str, kinds: Kinds, types: tuple[WeightType, ...]) -> None:
    for kind in kinds:
        if not _goes_with(kind, types):
            last = name.rpartition(".")[2]
            spelled = ",".join(map(str, types))
            why, other = why_apart(kind, types[-1])
            raise MaskLearnError(
                f"{name} can't have tiles of kind {kind} with {spelled} weights",
                why,
                f"Give `kinds` {last}={TWO_FOUR} behind a comma, or `weights` {last}={other}.",
            )


def why_apart(kind: TileKind, weights: WeightType) -> tuple[str, WeightType]:
    """Returns why no kernel multiplies tiles of a kind with weights of a type, and a type that goes with the kind."""
    if kind.goes_with(W8A8):
        return f"Only kernels of {W8A8}, which multiply inputs of 8 bits, have {kind} tiles.", W8A8
    theirs = listed([one for one in (DENSE, *PRUNED.values()) if one.goes_with(weights)], "and")
    return f"The kernels of {weights}, which multiply inputs of 8 bits, have {theirs} tiles only.", INT8


def listed(kinds: Sequence[TileKind], word: str) -> str:
    """Returns the kinds as words: one, two `word` three."""
    *first, last = map(str, kinds)
    return f"{', '.join(first)} {word} {last}"


def _check_fits(name: str, kinds: Kinds, fits: list[TileKind], columns: int, tile: tuple[int, int]) -> None:
    for kind in kinds:
        if kind not in fits:
            raise MaskLearnError(
                f"{name} can't have tiles of kind {kind}",
                f"Groups of {kind} lie in {kind.span} columns, so K and the columns of a tile are multiples of {kind.span}; "
                f"here they are {columns} and {min(tile[1], columns)}.",
                f"Give {name.rpartition('.')[2]}=2:4 behind a comma, another `tile`, or `kinds` auto, which leaves out "
                "kinds that do not fit.",
            )


def _kinds(text: str) -> Lists:
    return parse_lists(text, kind_named, "kind", AUTO)


def _types(text: str) -> Lists:
    pairs = parse_lists(text, weight_type, "type", AUTO)
    for _, names in pairs:
        if sum(name != AUTO and not weight_type(name).quantised for name in names) > 1:
            raise ValueError(f"{','.join(names)} names two types of 16 bits, and a graph has only one.")
    return pairs
