"""Errors speak with one voice: `what` is a sentence without a period, `why` and `fix` are whole sentences.

Texts that are written where an error is made are checked; texts from elsewhere are not.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("masklearn", "patch_compile", "benchmarks", "samples")
ERRORS = {
    "MaskLearnError", "PatchCompileError", "UsageError", "AccuracyError", "SpeedError", "LogitsError", "PlanMismatchError",
    "BuildCancelledError",
}  # fmt: skip
# Their texts depend on the machine: whether TensorRT and a GPU are there.
WITHOUT_GOLDEN_TEXT = {"tests/timing/test_bench.py"}
LOWER_CASE_NAMES = r"(nvcc|cuda-python|patch-compile|transformers)\b|g\+\+"


def texts(node):
    """Yield the texts that an argument can have; an expression inside a text is `{}`."""
    match node:
        case ast.IfExp():
            yield from (*texts(node.body), *texts(node.orelse))
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr():
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)


def faults(text, part):
    if not re.search(r"[a-z]", text.replace("{}", "")):  # empty, or another program's words
        return
    if re.match(r"[a-z]+(?![\w./:{-])", text) and not re.match(LOWER_CASE_NAMES, text):
        yield "begins with a small letter"
    if text.endswith(".") if part == "what" else not text.endswith((".", "…", "{}")):
        yield "ends with a period" if part == "what" else "ends without a period"


def test_every_error_class_is_checked():
    sources = (path.read_text() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    derived = [re.findall(r"^class (\w+)\((\w+)\):", source, re.MULTILINE) for source in sources]
    assert {name for found in derived for name, base in found if base in ERRORS} <= ERRORS


def test_every_error_is_written_as_sentences():
    found, wrong = 0, []
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func) in ERRORS):
                continue
            given = dict(zip(("what", "why", "fix"), node.args, strict=False))
            given |= {keyword.arg: keyword.value for keyword in node.keywords}
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            found += 1
            wrong += [
                f"{where}: {part} {fault}: {text}"
                for part, argument in given.items()
                for text in texts(argument)
                for fault in faults(text, part)
            ]
            if ast.unparse(node.func) == "UsageError" and not {"what", "why", "fix"} <= set(given):
                wrong.append(f"{where}: a usage error says what, why and how to fix it")
    assert found > 300
    assert not wrong, "\n".join(sorted(wrong))


def test_no_test_spells_a_sentence_of_an_error():
    spelled = re.compile(rf"pytest\.raises\(\s*({'|'.join(sorted(ERRORS))}),\s*match=")
    files = [path for path in (ROOT / "tests").rglob("*.py") if spelled.search(path.read_text())]
    found = {path.relative_to(ROOT).as_posix() for path in files} - WITHOUT_GOLDEN_TEXT
    assert not found, "Use `refused` of tests/refusals.py."
