"""Sections of the findings of `inspect` and `doctor`, and of the texts that `run` generated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from masklearn.masks.name_globs import kind_of, short_kinds
from patch_compile.inspection import Inspection
from patch_compile.report.number_format import bytes_of
from patch_compile.report.section import Column, Section, Table
from patch_compile.runtime.run import Continuations

_LISTED = 12  # entries of a list or mapping that are shown on a line

_WORDS = "pattern", "path", "reason"  # columns whose words tell rows of a kind apart


def inspected(inspection: Inspection, *, every: bool = False) -> Iterator[Section]:
    """Yield facts, the table, and the checks. every: gives each row a line; otherwise rows of a kind share a line."""
    rows = inspection.rows if every else list(_folded(inspection.rows))
    headings = [Column(name, words=not i or name in _WORDS) for i, name in enumerate(rows[0] if rows else ())]
    cells = [[_spelled(value, name) for name, value in row.items()] for row in rows]
    checked = [f"checked: {inspection.checked}"] if inspection.checked and not inspection.faults else []
    yield Section(
        f"{inspection.path}: {inspection.kind}",
        facts=[(name, _spelled(value, name)) for name, value in inspection.facts.items()],
        tables=[Table(headings, cells)],
        lines=[*(f"broken: {fault}" for fault in inspection.faults), *checked],
    )


def examined(result: Mapping[str, Any]) -> Iterator[Section]:
    """Yield the installed parts, the missing parts with their fixes, and the abilities of this machine."""
    facts: list[tuple[str, str]] = []
    for finding in result["findings"]:
        facts.append((f"{'ok' if finding['found'] else '--'}  {finding['what']}", finding["about"]))
        if finding["fix"]:
            facts.append(("", f"→ {finding['fix']}"))
    can = (f"{word} {line}" for word in ("can", "cannot") for line in result[word])
    yield Section(facts=facts, lines=list(can))


def generated(continuations: Continuations) -> Iterator[Section]:
    for prompt, completion in zip(continuations.prompts, continuations.completions, strict=True):
        yield Section(text=f"{prompt}\n→ {completion.text}\n\n")
    yield Section(lines=[times_line(continuations)])


def times_line(continuations: Continuations) -> str:
    """Returns the time to the first token, and the time of a step between tokens, in words."""
    tokens = sum(len(completion.tokens) for completion in continuations.completions)
    first = f"{tokens} tokens in {continuations.all:.2f} s, the first after {continuations.first_token * 1e3:.0f} ms"
    step = continuations.ms_per_step
    return first if step is None else f"{first}, then {step:.1f} ms a step"


def _folded(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each kind and pattern: `up_proj` for all blocks, their number, and ranges of numbers."""
    if not rows:
        return
    name = next(iter(rows[0]))
    kinds: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        words = (str(row.get(key)) for key in _WORDS)
        kinds.setdefault((kind_of(str(row[name])), *words), []).append(row)
    if len(kinds) == len(rows):
        yield from map(dict, rows)
        return
    short = short_kinds(dict.fromkeys(kind for kind, *_ in kinds))
    for (kind, *_), alike in kinds.items():
        yield {name: short[kind], "count": len(alike)} | {
            key: _range(alike, key) for key in alike[0] if key != name
        }


def _range(rows: Sequence[Mapping[str, Any]], key: str) -> Any:
    values = [row[key] for row in rows]
    if all(value == values[0] for value in values):
        return values[0]
    if all(isinstance(value, (int, float)) for value in values):
        return f"{_spelled(min(values), key)} … {_spelled(max(values), key)}"
    return ", ".join(dict.fromkeys(_spelled(value, key) for value in values))


def _spelled(value: Any, name: str) -> str:
    """Returns a value in words, bytes in MB."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name.endswith("bytes"):
        return bytes_of(value)
    if isinstance(value, float):
        return f"{value:g}"
    if name == "shape":
        return "×".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    if isinstance(value, Mapping):
        value = [
            f"{key or 'ai.onnx'}{':' * isinstance(entry, str)} {_spelled(entry, str(key))}"
            for key, entry in value.items()
        ]
    if isinstance(value, (list, tuple)):
        shown = ", ".join(map(str, value[:_LISTED])) or "none"
        return f"{shown} and {len(value) - _LISTED} more" if len(value) > _LISTED else shown
    return str(value)
