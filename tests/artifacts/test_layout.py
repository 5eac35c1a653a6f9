"""Only `patch_compile/artifacts/layout.py` spells paths of OUT, so that a file is moved in one place."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import patch_compile
from patch_compile.artifacts import layout

PACKAGE = Path(patch_compile.__file__).parent
PATHS = {value for name, value in vars(layout).items() if name.isupper()}
# A name with a dot is a file's, and always a path. A word such as "model" is a path only behind a slash.
FILES = {path for path in PATHS if "." in path}
FOLDERS = PATHS - FILES
SPELLED = re.compile(
    "|".join([rf"(?<![\w-]){re.escape(one)}(?![\w-])" for one in FILES - {layout.PARTIAL}] + [r"\.partial\b"])
)


def spelled(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of each string that spells a path of OUT; docstrings are ignored."""
    prose = set(map(id, docstrings(tree)))
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and text_of(node.right) in FOLDERS:
            yield node.lineno, text_of(node.right)
        if isinstance(node, ast.JoinedStr):
            yield from ((node.lineno, text) for text in map(text_of, node.values[1:]) if in_folder(text))
        text = text_of(node)
        if id(node) not in prose and SPELLED.search(text):
            yield node.lineno, text


def text_of(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def in_folder(text: str) -> bool:
    """True for a text such as `f"{out}/model"`."""
    return text.startswith("/") and re.split(r"[/\s,;:]", text[1:])[0] in FOLDERS


def docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def test_no_path_of_out_is_spelled_elsewhere() -> None:
    found = [
        f"{file.relative_to(PACKAGE)}:{line}: {text!r}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if file != Path(layout.__file__)
        for line, text in spelled(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert not found, "take these from patch_compile/artifacts/layout.py:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        'ONNX = "onnx/model.onnx"',
        'out / "model"',
        'path = out / "scratch" / "proof"',
        'f"{out}/model, and more"',
        'f"it holds no {what}, nor report.json"',
        'out.with_name(out.name + ".partial")',
    ],
)
def test_a_spelled_path_is_found(code: str) -> None:
    assert list(spelled(ast.parse(code)))
