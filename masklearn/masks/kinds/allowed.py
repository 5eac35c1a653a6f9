"""Kinds of tiles that a user allows: the value of `kinds`, and the kinds that it gives each linear.

It is `2:4`, `auto`, a list such as `8:16,12:16`, or `PATTERN=LIST,PATTERN=LIST,…` such as `mlp.*=8:16,12:16,v_proj=2:4`.
For patterns see `masklearn.masks.name_globs`; kinds between two patterns belong to the first. A list in front of all
patterns is for the linears that no pattern fits, which otherwise are 2:4. The last pattern that fits a linear
decides. A tile may always stay dense.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from masklearn.base.errors import MaskLearnError
from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import PRUNED, TWO_FOUR, kind_named
from masklearn.masks.name_globs import decide, entries, parse_pattern, spell_by_name
from masklearn.quant.table import BY_INPUTS, WeightType

AUTO = "auto"

Types = Mapping[str, tuple[WeightType, ...]]
"""Weight types that each linear may have."""
_ANY_TYPE: Types = MappingProxyType({})

AUTO_KINDS: tuple[TileKind, ...] = tuple(PRUNED[name] for name in ("2:4", "8:16", "10:16", "12:16"))
"""Kinds that `auto` chooses from."""

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
    groups do not divide K or the columns of the tiles, and kinds that go with none of the linear's types. Raises
    MaskLearnError for named kinds of that sort, and as `names.decide` does.
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
            found[name] = tuple(kind for kind in AUTO_KINDS if kind in fits and _goes_with_any(kind, own))
        else:
            found[name] = tuple(kind_named(one) for one in pair[1])
            _check_fits(name, found[name], fits, columns, tile)
            _check_types(name, found[name], own)
    return found


def left_out_of_auto(
    text: str, shapes: Mapping[str, tuple[int, int]], tile: tuple[int, int], types: Types = _ANY_TYPE
) -> Iterator[str]:
    """Yield lines for the user about kinds that `auto` leaves out, because their groups or their kernels do not fit.

    For the arguments see `allowed_kinds`.
    """
    decided, found = decide(_pairs(text), list(shapes), "`kinds`"), allowed_kinds(text, shapes, tile, types)
    linears: dict[tuple[tuple[TileKind, ...], str], list[str]] = {}
    for name, kinds in found.items():
        pair = decided[name]
        if pair is not None and pair[1] == (AUTO,) and len(kinds) < len(AUTO_KINDS):
            missing = tuple(kind for kind in AUTO_KINDS if kind not in kinds)
            own = types.get(name, ())
            if all(_goes_with_any(kind, own) for kind in missing):
                why = f"K or the columns of a tile are not a multiple of {max(kind.span for kind in missing)}"
            else:
                why = f"tiles of type {own[-1]} are dense or {TWO_FOUR}"
            linears.setdefault((missing, why), []).append(name)
    for (missing, why), names in linears.items():
        yield (
            f"kinds: auto leaves {', '.join(kind.name for kind in missing)} out in {len(names)} of {len(shapes)} linears, "
            f"such as {names[0]}: {why}"
        )


def _goes_with_any(kind: TileKind, types: tuple[WeightType, ...]) -> bool:
    """True also if no types are given. Types that are chosen by inputs, after the kinds, count as w8a8."""
    return not types or any(kind.goes_with(one) for one in (types[-1:] if types == BY_INPUTS else types))


def _check_types(name: str, kinds: tuple[TileKind, ...], types: tuple[WeightType, ...]) -> None:
    for kind in kinds:
        if not _goes_with_any(kind, types):
            last = name.rpartition(".")[2]
            raise MaskLearnError(
                f"{name} can't have tiles of kind {kind} with {types[-1]} weights",
                f"The kernels of {types[-1]}, which multiply inputs of 8 bits, have dense and {TWO_FOUR} tiles only.",
                f"Give `kinds` {last}={TWO_FOUR} behind a comma, or `weights` {last}=int8.",
            )


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
