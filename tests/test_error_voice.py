"""Errors speak with one voice: `what` is a sentence without a period, `why` and `fix` are whole sentences."""

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for folder in ("masklearn", "patch_compile", "benchmarks", "samples")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
LOWER_CASE_NAMES = r"(nvcc|cuda-python|patch-compile|transformers)\b|g\+\+"


def error_names():
    """`PatchCompileError` and the classes that derive from it, by the text of the sources."""
    names, bases = {"PatchCompileError", "MaskLearnError"}, {}
    for folder in ("masklearn", "patch_compile"):
        for path in (ROOT / folder).rglob("*.py"):
            for name, base in re.findall(r"^class (\w+)\((\w+)\):", path.read_text(), re.MULTILINE):
                bases[name] = base
    while found := {name for name, base in bases.items() if base in names} - names:
        names |= found
    return names


@cache
def tree_of(path):
    return ast.parse(path.read_text())


class Scope:
    """The constants that a file can refer to by name, its own and imported ones, to look up the texts of its errors."""

    def __init__(self, path):
        self.tree = tree_of(path)
        self.constants = constants(path)

    def literals(self, node, variables):
        """Texts that an argument can have; an expression inside a text is `{}`, and a bare expression is left out.

        variables: the values that the function around the argument gives to each of its variables.
        """
        match node:
            case ast.IfExp():
                return self.literals(node.body, variables) + self.literals(node.orelse, variables)
            case ast.BoolOp():
                return [text for value in node.values for text in self.literals(value, variables)]
            case ast.BinOp(op=ast.Add()):
                ends = self.literals(node.right, variables)
                return [left + right for left in self.literals(node.left, variables) for right in ends]
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr():
                parts = [self.part(part) for part in node.values]
                return ["".join(parts)] if parts != ["{}"] else []
            case ast.Name() if node.id in variables:
                rest = {name: values for name, values in variables.items() if name != node.id}
                return [text for value in variables[node.id] for text in self.literals(value, rest)]
            case ast.Name() if node.id in self.constants:
                return self.literals(self.constants[node.id], {})
            case ast.Subscript(value=ast.Name() as table) if isinstance(
                self.constants.get(table.id), ast.Dict
            ):
                return [
                    text for value in self.constants[table.id].values for text in self.literals(value, {})
                ]
            case ast.Call(func=ast.Attribute(value=ast.Name() | ast.Constant() as text, attr="format")):
                return [re.sub(r"{[^}]*}", "{}", one) for one in self.literals(text, variables)]
        return []

    def part(self, part):
        """A part of an f-string."""
        value = part if isinstance(part, ast.Constant) else part.value
        texts = self.literals(value, {})
        return texts[0] if len(texts) == 1 else "{}"


@cache
def constants(path):
    """The values of a file's constants and of those that it imports, by name."""
    if not path.is_file():
        return {}
    given = {}
    for node in tree_of(path).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            theirs = constants((ROOT / node.module.replace(".", "/")).with_suffix(".py"))
            given |= {one.asname or one.name: theirs[one.name] for one in node.names if one.name in theirs}
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name):
                given[target.id] = node.value
    return given


def variables(function):
    """The values that a function gives to its variables. One that grows by `+=` has no text of its own."""
    given, grown = defaultdict(list), set()
    for node in ast.walk(function):
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            grown.add(node.target.id)
        if isinstance(node, ast.Assign):
            for target in node.targets:
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = zip(target.elts, node.value.elts, strict=False)
                for one, value in pairs:
                    if isinstance(one, ast.Name):
                        given[one.id].append(value)
    return {name: values for name, values in given.items() if name not in grown}


def faults(text, part):
    if not re.search(r"[a-z]", text.replace("{}", "")):  # empty, or another program's words
        return
    if re.match(r"[a-z]+(?![\w./:{-])", text) and not re.match(LOWER_CASE_NAMES, text):
        yield "begins with a small letter"
    if part == "what" and text.endswith("."):
        yield "ends with a period"
    if part != "what" and not text.endswith((".", "…")):
        yield "ends without a period"


def calls(scope, names):
    """Every error that a file makes: the call, the function around it, and its arguments by name.

    A class with its own constructor makes the error there, with `super().__init__`.
    """
    plain = names - own_constructors()
    for holder in ast.walk(scope.tree):
        if isinstance(holder, ast.expr):
            continue
        errors = isinstance(holder, ast.ClassDef) and holder.name in names
        for function in ast.iter_child_nodes(holder):
            if isinstance(function, ast.FunctionDef):
                made = [
                    node
                    for node in ast.walk(function)
                    if isinstance(node, ast.Call)
                    and (named(node.func, plain) or (errors and is_super(node.func)))
                ]
                known = variables(function) if made else {}
                for node in made:
                    given = dict(zip(("what", "why", "fix"), node.args, strict=False))
                    yield node, known, given | {keyword.arg: keyword.value for keyword in node.keywords}


@cache
def own_constructors():
    """Classes with a constructor of their own, whose arguments are not those of `MaskLearnError`."""
    return {
        node.name
        for path in SOURCES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef) and any(getattr(one, "name", "") == "__init__" for one in node.body)
    } - {"MaskLearnError"}


def named(func, names):
    return isinstance(func, ast.Name) and func.id in names


def is_super(func):
    return ast.unparse(func) == "super().__init__"


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


EXAMPLE = """
from masklearn.base.errors import HOW_TO_CORRECT
_WHY, _OTHER = "two", "names"
_FIX = "do it"
_WORDS: dict[int, str] = {1: "one thing", 2: "Another thing"}

class OwnError(MaskLearnError):
    def __init__(self, path):
        super().__init__(_WORDS[path], f"{path} {_FIX}", HOW_TO_CORRECT)

def refuse(path):
    why, fix = "it is empty", _FIX
    raise UsageError(what="Path {} is bad".format(path), why=why, fix=fix)
"""


def test_constants_variables_and_own_constructors_are_looked_through(tmp_path):
    (path := tmp_path / "example.py").write_text(EXAMPLE)
    scope = Scope(path)
    found = [
        {part: scope.literals(argument, known) for part, argument in given.items()}
        for _, known, given in calls(scope, {"UsageError", "OwnError"})
    ]
    assert {"what": ["Path {} is bad"], "why": ["it is empty"], "fix": ["do it"]} in found
    correct = "Correct it: --help says what each option takes."
    assert {"what": ["one thing", "Another thing"], "why": ["{} do it"], "fix": [correct]} in found


def test_every_error_is_written_as_sentences():
    names = error_names()
    assert {"PatchCompileError", "UsageError", "AccuracyError", "SpeedError"} <= names
    found, wrong = 0, set()
    for path in SOURCES:
        scope = Scope(path)
        for node, known, given in calls(scope, names):
            found += 1
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            for part, argument in given.items():
                wrong |= {
                    f"{where}: {part} {fault}: {text}"
                    for text in scope.literals(argument, known)
                    for fault in faults(text, part)
                }
    assert found > 400
    assert not wrong, "\n".join(sorted(wrong))


def test_a_usage_error_says_what_why_and_how_to_fix_it():
    for path in SOURCES:
        for node, _, given in calls(Scope(path), {"UsageError"}):
            assert {"what", "why", "fix"} <= set(given), f"{path}:{node.lineno}"
