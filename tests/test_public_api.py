"""Benchmarks and samples use the public API: the names that `import patch_compile` and `import masklearn` give.

A benchmark that measures an inner part imports that part; `INNER` lists each with its reason.
"""

import ast
from pathlib import Path

import pytest

import masklearn
import patch_compile

ROOT = Path(__file__).parents[1]
PACKAGES = {"masklearn": masklearn, "patch_compile": patch_compile}
INNER = {
    # The kernels' programs predict and compile what they time, and keep whole libraries. `out.plan` has the types of a
    # plan's rows, `masks.kinds` the table of kinds, and `weights` the table of weight types.
    "benchmarks/kernels/": (
        "masklearn.base.durable", "masklearn.masks.kinds", "masklearn.quant", "patch_compile.hardware",
        "patch_compile.artifacts.plan", "patch_compile.artifacts.prediction",
        "patch_compile.planning", "patch_compile.plugin",
    ),
    # It starts pip as the program does, so that nothing of the current folder runs.
    "samples/packages.py": ("patch_compile.python_process",),
    # It holds the model of NVIDIA's libraries, which no command prints, against published times of 16-bit and int8 products.
    "benchmarks/published": ("masklearn.quant", "patch_compile.hardware", "patch_compile.planning.roofline"),
}  # fmt: skip
FILES = sorted(
    str(path.relative_to(ROOT)) for room in ("benchmarks", "samples") for path in (ROOT / room).rglob("*.py")
)


def imports(source):
    """Module and name of every import in a source, also inside functions; the name is None for `import module`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def inner(source):
    """Modules of the two packages that a source imports, without the public names."""
    for module, name in imports(source):
        package = PACKAGES.get(module.partition(".")[0])
        if package is not None and not (module in PACKAGES and (name is None or name in package.__all__)):
            yield module if module not in PACKAGES else f"{module}.{name}"


def under(module, rooms):
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def test_the_rule_itself():
    assert list(inner("from patch_compile import build, Sampling\nimport masklearn, numpy")) == []
    assert list(inner("def f():\n    from patch_compile.planning import cost")) == ["patch_compile.planning"]
    assert list(inner("from patch_compile import plan, engine")) == ["patch_compile.engine"]
    assert list(inner("import masklearn.task")) == ["masklearn.task"]


@pytest.mark.parametrize("file", FILES)
def test_only_the_public_api_is_imported(file):
    rooms = [room for place, rooms in INNER.items() if file.startswith(place) for room in rooms]
    found = set(inner((ROOT / file).read_text()))
    assert {module for module in found if not under(module, rooms)} == set()


@pytest.mark.parametrize("place", INNER)
def test_no_room_is_allowed_in_vain(place):
    used = {module for file in FILES if file.startswith(place) for module in inner((ROOT / file).read_text())}
    assert [room for room in INNER[place] if not any(under(module, [room]) for module in used)] == []
