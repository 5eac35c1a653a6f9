"""No test depends on how fast the machine is: none reads a clock, and every wait allows ten minutes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent
LEAST = 600  # seconds of a time-out, which is a net for what hangs
CLOCKS = {"time", "monotonic", "perf_counter", "process_time", "thread_time", "clock_gettime", "getrusage"}
CLOCKS |= {f"{name}_ns" for name in CLOCKS}
MODULES = {"time", "resource"}
WAITS = {"wait", "join", "settimeout", "result", "communicate"}  # their first argument is a time-out
HASTY = {
    "httpx": {"get", "post", "put", "stream", "Client", "AsyncClient"},
    "request": {"urlopen"},
}  # by default 5 s
SERVER = "serving"  # its time-outs are the settings of the server under test


def faults(source: str) -> Iterator[str]:
    """Lines that read a clock, wait for less than ten minutes, or leave the time of a request to a library."""
    for node in ast.walk(ast.parse(source)):
        if reads_a_clock(node) or hurries(node):
            yield f"{node.lineno}: {ast.unparse(node)}"  # type: ignore[attr-defined]  # nodes of both kinds have a line


def reads_a_clock(node: ast.AST) -> bool:
    """True for `time.monotonic` and the like, and for an import of such a name."""
    if isinstance(node, ast.ImportFrom):
        return node.module in MODULES and bool(CLOCKS & {alias.name for alias in node.names})
    return isinstance(node, ast.Attribute) and node.attr in CLOCKS and named(node.value) in MODULES


def named(node: ast.expr) -> str:
    """Returns the last name of `a.b.c`."""
    return getattr(node, "attr", None) or getattr(node, "id", "")


def hurries(node: ast.AST) -> bool:
    """True for a call whose time-out is not a number from 600 on, and for a request without a time-out."""
    if not isinstance(node, ast.Call) or named(node.func) == SERVER:
        return False
    given = [word.value for word in node.keywords if word.arg == "timeout"]
    if isinstance(node.func, ast.Attribute):
        if node.func.attr in HASTY.get(named(node.func.value), ()) and not given:
            return True
        if node.func.attr in WAITS and len(node.args) == 1:
            given += [
                one
                for one in node.args
                if isinstance(one, ast.Constant) and isinstance(one.value, int | float)
            ]
    return any(not (isinstance(one, ast.Constant) and one.value >= LEAST) for one in given)


def sources(*, shared: bool) -> dict[str, str]:
    """Sources of the files of tests, or of the files that they share, by file."""
    files = [file for file in TESTS.rglob("*.py") if file.name.startswith("test_") is not shared]
    return {str(file.relative_to(TESTS)): file.read_text(encoding="utf-8") for file in files}


def test_no_test_depends_on_the_machines_speed() -> None:
    found = {file: list(faults(source)) for file, source in sources(shared=False).items()}
    assert len(found) > 300
    assert {file: lines for file, lines in found.items() if lines} == {}


def test_what_tests_share_waits_long_too() -> None:
    found = {
        file: [ast.unparse(node) for node in ast.walk(ast.parse(source)) if hurries(node)]
        for file, source in sources(shared=True).items()
    }
    assert {file: calls for file, calls in found.items() if calls} == {}


def test_no_example_has_a_deadline() -> None:
    assert settings().deadline is None and HealthCheck.too_slow in settings().suppress_health_check


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("assert time.monotonic() - began < 5", 1),
        ("from time import perf_counter", 1),
        ("resource.getrusage(resource.RUSAGE_SELF)", 1),
        ("time.sleep(1)", 0),
        ("subprocess.run(command, timeout=60)", 1),
        ("subprocess.run(command, timeout=PATIENCE)", 1),
        ("subprocess.run(command, timeout=600)", 0),
        ("thread.join(20)", 1),
        ("thread.join()", 0),
        ("', '.join(names)", 0),
        ("', '.join('ab')", 0),
        ("httpx.get(url)", 1),
        ("serving(generator, timeout=2)", 0),
    ],
)
def test_the_check_itself(source: str, count: int) -> None:
    assert len(list(faults(source))) == count
