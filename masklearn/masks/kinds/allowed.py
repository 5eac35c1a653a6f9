"""Kinds of tiles that a user allows: the value of `kinds`, and the kinds that it gives each linear.

It is `2:4`, `auto`, a list such as `8:16,12:16`, or `PATTERN=LIST,PATTERN=LIST,…` such as `mlp.*=8:16,12:16,v_proj=2:4`.
For patterns see `masklearn.masks.name_globs`; kinds between two patterns belong to the first. A list in front of all
patterns is for the linears that no pattern fits, which otherwise are 2:4. The last pattern that fits a linear
decides. A tile may always stay dense.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from masklearn.base.errors import MaskLearnError
from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import DENSE, PRUNED, TWO_FOUR, kind_named
from masklearn.masks.name_globs import decide, entries, parse_pattern, spell_by_name
from masklearn.quant.table import FLOAT16, INT8, W8A8, WeightType

AUTO = "auto"

Types = Mapping[str, tuple[WeightType, ...]]
"""Weight types that each linear may have."""
_ANY_TYPE: Types = MappingProxyType({})

AUTO_KINDS: tuple[TileKind, ...] = tuple(PRUNED[name] for name in ("2:4", "8:16", "12:16", "6:8"))
"""Kinds that `auto` chooses from, as far as they go with the type of the weights."""

_Pairs = list[tuple[str, tuple[str, ...]]]


def parse_kinds(text: str) -> str:
    """Check a value of `kinds` and return it in its shortest form. Raises a ValueError of one line if it is misspelled."""
    pairs = _pairs(text)
    return ",".join(
        f"{pattern}={','.join(kinds)}" if pattern else ",".join(kinds) for pattern, kinds in pairs
    )


def only_two_four(text: str) -> bool:
    """True if the value allows no other kind than 2:4 in any linear."""
    return all(kinds == (TWO_FOUR.name,) for _, kinds in _pairs(text))


def spell_kinds(kinds: Mapping[str, tuple[TileKind, ...]]) -> str:
    """Returns a value of `kinds` that allows these linears these kinds; kinds: of all linears, by name."""
    return spell_by_name(
        {name: ",".join(kind.name for kind in own) for name, own in kinds.items()}, TWO_FOUR.name
    )


def allowed_kinds(
    text: str, shapes: Mapping[str, tuple[int, int]], tile: tuple[int, int], types: Types = _ANY_TYPE
) -> dict[str, tuple[TileKind, ...]]:
    """Returns the kinds that each linear's tiles may have, besides dense.

    shapes: (N, K) by linear; tile: (rows, columns); types: weight types that linears may have. `auto` leaves out kinds whose
    groups do not divide K or the columns of the tiles, and kinds that go with none of the linear's types, which have 16 bits
    if `types` does not say. Raises MaskLearnError for named kinds of that sort, and as `names.decide` does. If `types` does
    not say, every named kind goes with it.
    """
    decided = decide(_pairs(text), list(shapes), "`kinds`")
    found: dict[str, tuple[TileKind, ...]] = {}
    for name, (_, columns) in shapes.items():
        pair = decided[name]
        fits = [kind for kind in PRUNED.values() if kind.fits_tiles(columns, tile[1])]
        own = types.get(name, ())
        if pair is None:
            found[name] = (TWO_FOUR,)
        elif pair[1] == (AUTO,):
            found[name] = tuple(kind for kind in _of_auto(own) if kind in fits)
        else:
            found[name] = tuple(kind_named(one) for one in pair[1])
            _check_fits(name, found[name], fits, columns, tile)
            _check_types(name, found[name], own or (FLOAT16, W8A8))
    return found


def left_out_of_auto(
    text: str, shapes: Mapping[str, tuple[int, int]], tile: tuple[int, int], types: Types = _ANY_TYPE
) -> Iterator[str]:
    """Yield lines for the user about kinds that `auto` leaves out, because their groups or their kernels do not fit.

    For the arguments see `allowed_kinds`.
    """
    linears: dict[tuple[tuple[TileKind, ...], str], list[str]] = {}
    for name, pair in decide(_pairs(text), list(shapes), "`kinds`").items():
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


def _of_auto(types: tuple[WeightType, ...]) -> tuple[TileKind, ...]:
    """Returns the kinds that `auto` means for types of a linear."""
    return tuple(kind for kind in AUTO_KINDS if _goes_with(kind, types or (FLOAT16,)))


def _goes_with(kind: TileKind, types: tuple[WeightType, ...]) -> bool:
    """True if a kind goes with one of the types."""
    return any(kind.goes_with(one) for one in types)


def _check_types(name: str, kinds: tuple[TileKind, ...], types: tuple[WeightType, ...]) -> None:
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


def _check_fits(
    name: str, kinds: tuple[TileKind, ...], fits: list[TileKind], columns: int, tile: tuple[int, int]
) -> None:
    for kind in kinds:
        if kind not in fits:
            raise MaskLearnError(
                f"{name} can't have tiles of kind {kind}",
                f"Groups of {kind} lie in {kind.span} columns, so K and the columns of a tile are multiples of {kind.span}; "
                f"here they are {columns} and {min(tile[1], columns)}.",
                f"Give {name.rpartition('.')[2]}=2:4 behind a comma, another `tile`, or `kinds` auto, which leaves out "
                "kinds that do not fit.",
            )


def _pairs(text: str) -> _Pairs:
    pairs: _Pairs = []
    for entry in entries(text):
        pattern, equals, kind = (part.strip() for part in entry.rpartition("="))
        if equals and not pattern:
            raise ValueError(f"{entry.strip()!r} has no pattern in front of the =.")
        if kind != AUTO:
            kind_named(kind)
        if equals or not pairs:
            pairs.append((parse_pattern(pattern) if equals else "", (kind,)))
        else:
            pairs[-1] = pairs[-1][0], (*pairs[-1][1], kind)
    for _, kinds in pairs:
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"{','.join(kinds)} names a kind twice.")
        if AUTO in kinds and len(kinds) > 1:
            raise ValueError(f"{','.join(kinds)} names {AUTO} and other kinds. Give only one of the two.")
    return pairs
