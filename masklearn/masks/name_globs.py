"""Names of linears: their kind and depth, and the patterns with which users choose linears.

A pattern is either a glob that fits the whole name or its end after any dot (`v_proj`, `mlp.*`; `*` also matches dots), or
`re:` and a regular expression for the whole name. `include` and `exclude` take these. `ratio` and `lowering` take a value
for all linears or `PATTERN=VALUE,PATTERN=VALUE,…`, `kinds` and `weights` a list of values or `PATTERN=LIST,PATTERN=LIST,…`.
**The last pattern that fits a linear decides**; a value in front of all patterns is for linears that no pattern fits.

A pattern may come from a stranger's recipe, and some expressions take for ever. Matching is stopped after a second, in the
main thread: only that thread gets signals.
"""

import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from glob import escape
from typing import TypeVar

from masklearn.base.errors import MaskLearnError, UsageError

Value = TypeVar("Value")
Lists = list[tuple[str, tuple[str, ...]]]
"""Patterns with the values that they give to linears."""

_NUMBER = re.compile(r"\.(\d+)(?=\.|$)")
_EXPRESSION = "re:"
_SECONDS = 1.0  # a sound pattern takes microseconds
_ENDS_WITH_VALUE = re.compile(r"=\s*[\w.:+-]+\s*$")


def kind_of(name: str) -> str:
    """Returns the name with `*` for each number: `model.layers.7.mlp.up_proj` becomes `model.layers.*.mlp.up_proj`."""
    return _NUMBER.sub(".*", name)


def kinds_of(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(map(kind_of, names)))


def depth_of(name: str) -> int | None:
    """Returns the number of the linear's block (the first number in the name), or None outside the blocks."""
    found = _NUMBER.search(name)
    return int(found[1]) if found else None


def short_kinds(kinds: Iterable[str]) -> dict[str, str]:
    """Returns, for each kind, its shortest end after a dot that no other kind has, such as `up_proj`."""
    kinds = list(kinds)
    return {kind: _shortest_end(kind, [other for other in kinds if other != kind]) for kind in kinds}


def shared_path(a: str, b: str) -> str:
    """Returns the dotted path that two names begin with, such as "model.layers.0.mlp." for gate_proj and up_proj."""
    shared = []
    for x, y in zip(a.split(".")[:-1], b.split(".")[:-1], strict=False):
        if x != y:
            break
        shared.append(f"{x}.")
    return "".join(shared)


def spell_by_name(values: Mapping[str, str], default: str) -> str:
    """Returns a text that gives these linears these values, as `parse_lists` and `decide` read it.

    values: of all linears, by name; default: the text if there are no linears.
    """
    if not values:
        return default
    ((commonest, _),) = Counter(values.values()).most_common(1)
    # A name may be the end of a longer name, which then has to come later.
    rest = sorted((name for name in values if values[name] != commonest), key=len)
    own = {name: values[name] for name in rest}
    for name in values.keys() - own.keys():
        if any(name.endswith(f".{other}") for other in own):
            own[name] = values[name]
    pairs = (f"{escape(name)}={own[name]}" for name in sorted(own, key=lambda one: (len(one), one)))
    return ",".join((commonest, *pairs))


def matches(name: str, *patterns: str) -> bool:
    """True if any pattern fits the name. The patterns must be valid."""
    return any(_fits(name, pattern) for pattern in patterns)


def parse_pattern(pattern: str) -> str:
    """Check a pattern and return it. Raises a ValueError of one line if it is invalid."""
    if pattern.startswith(_EXPRESSION):
        try:
            re.compile(pattern.removeprefix(_EXPRESSION))
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}.") from None
        except (RecursionError, OverflowError):
            raise ValueError(
                "It is a regular expression that is nested too deeply or counts too far."
            ) from None
    return pattern


def check_patterns(patterns: Iterable[str], names: Sequence[str], option: str) -> None:
    """Raises UsageError for an invalid pattern, and for a pattern that fits none of the names.

    option: the option with which the user gave the pattern, for errors.
    """
    for pattern in patterns:
        try:
            parse_pattern(pattern)
        except ValueError as error:
            raise UsageError(f"A pattern of {option} is not valid", str(error), "Correct it.") from None
        if not any(_fits(name, pattern) for name in names):
            raise UsageError(
                f"The pattern {pattern!r} of {option} matches no linear",
                f"The linears are {', '.join(kinds_of(names))}.",
                "Give a name or its end from any dot on (v_proj), a glob of such (mlp.*, layers.3.*), or re: and a regular "
                "expression for the whole name.",
            )


def parse_lists(text: str, check: Callable[[str], object], noun: str, alone: str = "") -> Lists:
    """Returns the pairs of (pattern, values) in a list of values, or in `PATTERN=LIST,PATTERN=LIST,…`.

    Values between two patterns belong to the first. Values in front of all patterns have the empty pattern, which fits every
    name. check: raises ValueError for an unknown value; noun: what a value is, for errors; alone: value that goes with no
    other and is not checked. Raises a ValueError of one line if the text is misspelled.
    """
    pairs: Lists = []
    for entry in _entries(text):
        pattern, equals, value = (part.strip() for part in entry.rpartition("="))
        if equals and not pattern:
            raise ValueError(f"{entry.strip()!r} has no pattern in front of the =.")
        if not alone or value != alone:
            check(value)
        if equals or not pairs:
            pairs.append((parse_pattern(pattern), (value,)))
        else:
            pairs[-1] = pairs[-1][0], (*pairs[-1][1], value)
    for _, values in pairs:
        if len(set(values)) < len(values):
            raise ValueError(f"{','.join(values)} names a {noun} twice.")
        if alone in values and len(values) > 1:
            raise ValueError(f"{','.join(values)} names {alone} and other {noun}s. Give only one of the two.")
    return pairs


def parse_values(text: str, read: Callable[[str], Value], noun: str) -> list[tuple[str, Value]]:
    """Returns the pairs of (pattern, value) in a value for all names, or in `PATTERN=VALUE,PATTERN=VALUE,…`.

    For the arguments and the errors see `parse_lists`; read: returns a value.
    """
    pairs = parse_lists(text, read, noun)
    for _, values in pairs:
        if len(values) > 1:
            raise ValueError(
                f"{','.join(values)} is more than one {noun}. Give PATTERN={noun.upper()} for each."
            )
    return [(pattern, read(value)) for pattern, (value,) in pairs]


def spell_lists(pairs: Lists) -> str:
    """Inverse of `parse_lists`."""
    return ",".join(f"{pattern}={','.join(own)}" if pattern else ",".join(own) for pattern, own in pairs)


def decide(
    pairs: Sequence[tuple[str, Value]], names: Sequence[str], option: str
) -> dict[str, tuple[str, Value] | None]:
    """Returns the last (pattern, value) that fits each name, or None if no pattern fits. The empty pattern fits every name.

    Raises UsageError for a pattern that fits no name, or that is never the last pattern to fit.
    """
    check_patterns((pattern for pattern, _ in pairs if pattern), names, option)
    decided: dict[str, tuple[str, Value] | None] = dict.fromkeys(names)
    for pattern, value in pairs:
        decided |= {name: (pattern, value) for name in names if not pattern or _fits(name, pattern)}
    for pair in pairs:
        if pair[0] and pair not in decided.values():
            raise UsageError(
                f"The pattern {pair[0]!r} of {option} decides for no linear",
                "Later patterns fit all linears that it fits, and the last pattern decides.",
                "Write the general pattern before the particular one.",
            )
    return decided


def _fits(name: str, pattern: str) -> bool:
    if pattern.startswith(_EXPRESSION):
        expression = re.compile(pattern.removeprefix(_EXPRESSION))
        with _bounded(name, pattern):
            return expression.fullmatch(name) is not None
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")


@contextmanager
def _bounded(name: str, pattern: str) -> Iterator[None]:
    """Raise MaskLearnError in the body after a second of the process's time; `re` looks for signals while it matches.

    Outside the main thread the body is not bounded, because only the main thread may handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise MaskLearnError(
            f"The pattern {pattern!r} takes too long",
            f"It was matched with the name {name!r} for {_SECONDS:g} s without an end. Repetitions of repetitions, as in "
            "(a+)+, do that.",
            "Write it without them, or as a glob.",
        )

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _entries(text: str) -> Iterator[str]:
    """Yield the parts of the text between commas, except in a regular expression, which ends after its `=VALUE`."""
    parts: list[str] = []
    for piece in text.split(","):
        parts.append(piece)
        if parts[0].strip().startswith(_EXPRESSION) and not _ENDS_WITH_VALUE.search(piece):
            continue
        yield ",".join(parts)
        parts = []
    if parts:  # a regular expression without a value
        yield ",".join(parts)


def _shortest_end(kind: str, others: list[str]) -> str:
    parts = kind.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
    return next((end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others)), kind)
