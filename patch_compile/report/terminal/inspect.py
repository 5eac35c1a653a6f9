"""Prints the findings of `inspect` and `doctor`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from masklearn.masks.name_globs import kind_of, short_kinds
from patch_compile.inspection import Inspection
from patch_compile.report.terminal.folding import FoldingTable
from patch_compile.report.terminal.parts import Part

__all__ = ["examined_parts", "found_parts"]

_LISTED = 12  # entries of a list or mapping that are shown on a line


def found_parts(found: Inspection, *, every: bool = False) -> Iterator[Part]:
    """Yield facts, the table, and the checks. every: gives each row a line; rows of a kind otherwise share one."""
    yield f"{found.path}: {found.kind}"
    for name, value in found.facts.items():
        yield f"  {name}: {_spelled(value, name)}"
    if found.rows:
        yield _table(found.rows if every else list(_folded(found.rows)))
    yield from (f"broken: {fault}" for fault in found.faults)
    if found.checked and not found.faults:
        yield f"checked: {found.checked}"


def examined_parts(result: Mapping[str, Any]) -> Iterator[Part]:
    """Yield what is there, what is missing with its fix, and what this machine can do."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in result["findings"]:
        table.add_row("ok" if one["found"] else "--", one["what"], one["about"])
        if one["fix"]:
            table.add_row("", "", f"→ {one['fix']}")
    yield table
    yield from (f"can {line}" for line in result["can"])
    yield from (f"cannot {line}" for line in result["cannot"])


def _folded(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each kind: `up_proj` for all blocks, their number, and ranges of numbers."""
    name = next(iter(rows[0]))
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(kind_of(str(row[name])), []).append(row)
    if len(kinds) == len(rows):
        yield from map(dict, rows)
        return
    short = short_kinds(kinds)
    for kind, alike in kinds.items():
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


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = FoldingTable()
    for i, header in enumerate(rows[0]):
        table.add_column(header, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(_spelled(value, key) for key, value in row.items()))
    return table


def _spelled(value: Any, name: str) -> str:
    """Returns a value in words, bytes in MB."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name.endswith("bytes"):
        return _bytes(value)
    if isinstance(value, float):
        return f"{value:g}"
    if name == "shape":
        return "×".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    if isinstance(value, Mapping):
        value = [
            f"{key or 'ai.onnx'}{':' * isinstance(one, str)} {_spelled(one, str(key))}"
            for key, one in value.items()
        ]
    if isinstance(value, (list, tuple)):
        shown = ", ".join(map(str, value[:_LISTED])) or "none"
        return f"{shown} and {len(value) - _LISTED} more" if len(value) > _LISTED else shown
    return str(value)


def _bytes(count: int) -> str:
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
