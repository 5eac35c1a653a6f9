"""Few modules start programs, and only one of them starts Python: it keeps the current folder out of the imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("patch_compile", "masklearn", "samples")
OWNER = "patch_compile/python_process.py"
# Names that start a program, or that name this Python.
STARTS = {"subprocess", "multiprocessing", "ProcessPoolExecutor", "runpy", "executable", "system", "popen"}
# Modules of os whose names begin so replace this process or start another.
OF_OS = ("exec", "spawn", "posix_spawn", "fork")
ALLOWED = {
    OWNER: {"subprocess", "executable"},
    "patch_compile/cli/app.py": {"executable"},  # names it in a message
    "patch_compile/pipeline/edgellm.py": {"subprocess", "executable"},  # catches a time-out; a default that the owner starts
    "patch_compile/plugin/toolchain.py": {"subprocess"},  # nvcc and C++ compilers
    "samples/packages.py": {"subprocess"},  # npm
}  # fmt: skip


def starts(source: str) -> Iterator[str]:
    """Names in Python code that start a program, or that name this Python."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                paths = [getattr(node, "module", None) or "", *(alias.name for alias in names)]
                yield from STARTS & {part for path in paths for part in path.split(".")}
            case ast.Attribute(value=ast.Name(id="os" | "sys"), attr=name):
                if name in STARTS or name.startswith(OF_OS):
                    yield name
            case ast.keyword(arg="num_workers" | "num_proc" as name):
                yield name


def test_only_one_module_starts_python() -> None:
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    found = {str(file.relative_to(ROOT)): set(starts(file.read_text(encoding="utf-8"))) for file in files}
    assert {file: names for file, names in found.items() if names} == ALLOWED


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import subprocess", "subprocess"),
        ("import torch.multiprocessing as mp", "multiprocessing"),
        ("os.execvp('python', ['python'])", "execvp"),
        ("command = [sys.executable, '-m', 'pip']", "executable"),
        ("DataLoader(texts, num_workers=2)", "num_workers"),
    ],
)
def test_the_check_itself(source: str, found: str) -> None:
    assert list(starts(source)) == [found]
