"""What a linear's name tells: its kind, which is the name with numbers folded, and the depth of its block."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

__all__ = ["depth_of", "kind_of", "kinds_of", "matches", "short_kinds"]

_NUMBER = re.compile(r"\.(\d+)(?=\.|$)")


def kind_of(name: str) -> str:
    """The name with each number in it folded into `*`: `model.layers.7.mlp.up_proj` is `model.layers.*.mlp.up_proj`."""
    return _NUMBER.sub(".*", name)


def kinds_of(names: Iterable[str]) -> list[str]:
    """The kinds of the names in their order, each once."""
    return list(dict.fromkeys(map(kind_of, names)))


def depth_of(name: str) -> int | None:
    """The number of the block, which is the first number in the name; None for a linear outside the blocks."""
    found = _NUMBER.search(name)
    return int(found[1]) if found else None


def short_kinds(kinds: Iterable[str]) -> dict[str, str]:
    """Kinds to the shortest ends of their names that tell them apart, cut at dots: `up_proj`."""
    kinds = list(kinds)
    return {kind: _shortest_end(kind, [other for other in kinds if other != kind]) for kind in kinds}


def matches(name: str, patterns: Iterable[str]) -> bool:
    """True when the whole name fits one pattern: a glob, or `re:` and a regular expression."""
    return any(
        re.fullmatch(pattern[3:], name) is not None
        if pattern.startswith("re:")
        else fnmatchcase(name, pattern)
        for pattern in patterns
    )


def _shortest_end(kind: str, others: list[str]) -> str:
    parts = kind.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
    return next((end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others)), kind)
