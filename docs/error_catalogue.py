"""Makes the page of all errors of patch-compile from its sources: `reference/errors.md` on the site."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("patch_compile", "masklearn")
CANNOT_READ, FETCH = "cannot be read", "Fetch the file again."  # defaults of masklearn.base.errors.reading
_HEAD = """# Errors

Every error says what is wrong, why, and what to do, and `patch-compile` prints it without a traceback. `…` stands for what a
message fills in: a file, a linear, a number. The page is made from the sources, so it has every message of this version,
by the room that raises it ([architecture](../explanation/architecture.md)).

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | a mistake in the input, or something that the machine lacks |
| 2 | a setting that can never be valid |
| 3 | an accuracy check failed |
| 4 | a requested speed can't be reached |
| 5 | a question of `verify` has no answer |
| 70 | a fault of patch-compile; `--debug` prints its traceback |
| 130 | interrupted; `--resume` continues |
"""


@dataclass(frozen=True)
class Message:
    """An error as its source words it. what, why, fix: texts with `…` for what is computed, "" for none."""

    room: str
    kind: str
    what: str
    why: str
    fix: str


def catalogue() -> str:
    """The page."""
    parts, room, codes = [_HEAD], "", exit_codes()
    for one in sorted(set(messages()), key=lambda one: (one.room, one.what)):
        if one.room != room:
            room = one.room
            parts.append(f"\n## {room}\n\n| what | why | what to do | exit code |\n| --- | --- | --- | --- |")
        cells = (_cell(one.what), _cell(one.why), _cell(one.fix), str(codes[one.kind]))
        parts.append(f"| {' | '.join(cells)} |")
    return "\n".join(parts) + "\n"


def messages() -> Iterator[Message]:
    """Yields each message of the two packages whose `what` the source spells."""
    codes = exit_codes()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            room = ".".join((package, *path.relative_to(ROOT / package).with_suffix("").parts[:1]))
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in codes:
                    given = {word.arg: word.value for word in node.keywords}
                    given |= dict(zip(("what", "why", "fix"), node.args, strict=False))
                    texts = {name: _text(given.get(name)) for name in ("what", "why", "fix")}
                    if re.search("[a-z]{2}", texts["what"]):
                        yield Message(room, node.func.id, **texts)
                elif (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id == "reading"
                ):
                    given = {word.arg: word.value for word in node.keywords}
                    fix = _text(node.args[1]) if node.args[1:] else FETCH
                    what = _text(given.get("what")) or CANNOT_READ
                    yield Message(room, "MaskLearnError", f"{_text(node.args[0])} {what}", "…", fix)


def exit_codes() -> dict[str, int]:
    """Exit code by the names of `PatchCompileError` and of each class that derives from it."""
    codes, bases = {"PatchCompileError": 1, "MaskLearnError": 1}, dict[str, tuple[str, int | None]]()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for name, base, body in re.findall(
                r"^class (\w+)\((\w+)\):(.*?)(?=^\S|\Z)", path.read_text(), re.MULTILINE | re.DOTALL
            ):
                own = re.search(r"^    exit_code = (\d+)", body, re.MULTILINE)
                bases[name] = (base, int(own[1]) if own else None)
    while new := {name for name, (base, _) in bases.items() if base in codes} - codes.keys():
        for name in new:
            base, own = bases[name]
            codes[name] = codes[base] if own is None else own
    return codes


def _text(node: ast.expr | None) -> str:
    """The text of an argument, of a choice between texts the first; `…` for what is computed."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr():
            return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        case ast.BinOp(op=ast.Add()):
            return _text(node.left) + _text(node.right)
        case ast.IfExp():
            return _text(node.body)
        case None:
            return ""
    return "…"


def _cell(text: str) -> str:
    return re.sub(r"([|<>*_\[\]])", r"\\\1", text.replace("\n", " ")).strip()
