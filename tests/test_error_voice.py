"""Errors speak with one voice: `what` is a sentence without a period, `why` and `fix` are whole sentences."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for folder in ("masklearn", "patch_compile", "benchmarks", "samples")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
LOWER_CASE_NAMES = r"(nvcc|cuda-python|patch-compile|transformers)\b"


def error_names():
    """`PatchCompileError` and the classes that derive from it, by the text of the sources."""
    names, bases = {"PatchCompileError"}, {}
    for folder in ("masklearn", "patch_compile"):
        for path in (ROOT / folder).rglob("*.py"):
            for name, base in re.findall(r"^class (\w+)\((\w+)\):", path.read_text(), re.MULTILINE):
                bases[name] = base
    while found := {name for name, base in bases.items() if base in names} - names:
        names |= found
    return names


def literals(node):
    """Texts that an argument can have; an expression inside a text is `{}`, and a bare expression is left out."""
    match node:
        case ast.IfExp():
            return literals(node.body) + literals(node.orelse)
        case ast.BoolOp():
            return [text for value in node.values for text in literals(value)]
        case ast.BinOp(op=ast.Add()):
            return [left + right for left in literals(node.left) for right in literals(node.right)]
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr():
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            return ["".join(parts)] if parts != ["{}"] else []
    return []


def faults(text, part):
    if not re.search(r"[a-z]", text.replace("{}", "")):  # empty, or another program's words
        return
    if re.match(r"[a-z]+(?![\w./:{-])", text) and not re.match(LOWER_CASE_NAMES, text):
        yield "begins with a small letter"
    if part == "what" and text.endswith("."):
        yield "ends with a period"
    if part != "what" and not text.endswith((".", "…")):
        yield "ends without a period"


def calls(path, names):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            given = dict(zip(("what", "why", "fix"), node.args, strict=False))
            yield node, given | {keyword.arg: keyword.value for keyword in node.keywords}


@pytest.mark.parametrize(
    ("text", "part", "wrong"),
    [
        ("No ratio is given", "what", False),
        ("no ratio is given", "what", True),
        ("No ratio is given.", "what", True),
        ("--tile 3 is no tile", "what", False),
        ("report.json is missing", "what", False),
        ("{} is missing", "what", False),
        ("It is empty.", "why", False),
        ("It is empty", "why", True),
        ("it is empty.", "why", True),
        ("", "why", False),
    ],
)
def test_the_rule_itself(text, part, wrong):
    assert bool(list(faults(text, part))) == wrong


def test_every_error_is_written_as_sentences():
    names = error_names()
    assert {"PatchCompileError", "UsageError", "AccuracyError", "SpeedError"} <= names
    found, wrong = 0, []
    for path in SOURCES:
        for node, given in calls(path, names):
            found += 1
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            for part, argument in given.items():
                wrong += [
                    f"{where}: {part} {fault}: {text}"
                    for text in literals(argument)
                    for fault in faults(text, part)
                ]
    assert found > 200
    assert not wrong, "\n".join(wrong)


def test_a_usage_error_says_what_why_and_how_to_fix_it():
    for path in SOURCES:
        for node, given in calls(path, {"UsageError"}):
            assert {"what", "why", "fix"} <= set(given), f"{path}:{node.lineno}"
