"""Refusals: errors whose exit code and first sentence stand in a golden file, the refusals.txt of the test's folder.

`with refused(): call(...)` needs an error, and `refusal(run_here(...))` takes the error of a command. The golden file tells
which error a test gets; the reasons and remedies behind the first sentence are in the source, and the documentation lists
them as a whole. A line of the file is a test, a refusal, and the parameters of its cases with this refusal. GOLDEN=write
writes the files anew. Words replace what varies between machines and runs, such as DIR for a temporary folder.
"""

import fcntl
import inspect
import os
import re
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import ndiff
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from masklearn.base.errors import MaskLearnError
from masklearn.base.printable import printable

GOLDEN = os.environ.get("GOLDEN")
WRITES = GOLDEN == "write"
# Packages of other versions use other words: only exit codes and classes are compared.
KINDS_ONLY = GOLDEN == "kinds"
NAME = "refusals.txt"
HINT = "If the change is meant, run `GOLDEN=write make test-full`."
_ROOT = Path(__file__).parents[1]
COLLECTED = pytest.StashKey[tuple[pytest.Item, ...]]()  # all tests that pytest finds; it runs some of them
_TEMPORARY = rf"{re.escape(str(Path(tempfile.gettempdir()).resolve()))}/pytest-of-[\w-]+/pytest-\d+"
_VARIES = {
    re.escape(sysconfig.get_path("purelib")): "PACKAGES",
    re.escape(sys.prefix): "PREFIX",
    rf"{re.escape(str(_ROOT))}(?![\w-])": "REPOSITORY",
    rf"{re.escape(str(Path.home()))}(?=/)": "HOME",
    r"\bpatch-compile-\w{8}\b": "patch-compile-…",  # a temporary folder of ours
    r"\b0x[0-9a-f]{6,}": "0x…",
    r"\b[0-9a-f]{64}\b": "SHA256",
    r"\b[0-9a-f]{16}\b": "RANDOM",  # in the name of a temporary file
    r"\b[0-9a-f]{24}\b": "KEY",  # of a compiled plugin
    r"\bpid \d+": "pid …",
    r"\b\d\.\d+e[+-]\d\d\b": "…",  # measured
    r"\b(onnx|onnxruntime|tensorrt|tensorrt-rtx) \d+(\.\d+)+": r"\1 VERSION",
    r"(.)\1{60,}": r"\1\1\1…",
}
Kinds = type[Exception] | tuple[type[Exception], ...]


class Refused:
    """The error that a block of `refused` raised."""

    error: Any


class _Refusals:
    """The refusals of the test that runs."""

    def __init__(self, item: pytest.Item) -> None:
        own = item.config.getoption("basetemp")
        base = _TEMPORARY if own is None else re.escape(str(own))
        own_folder = re.sub(r"\W", "_", item.name)[:30]  # the name that pytest's `tmp_path` begins with
        self.varies = {rf"{base}(/popen-gw\d+)?/[\w-]+": "DIR", rf"\b{own_folder}\d+": "DIR"} | _VARIES
        self.path, self.key = item.path.with_name(NAME), key_of(item)
        self.found: set[str] = set()

    def add(self, said: str, varies: str | None) -> None:
        said = said.partition("\n")[0].rstrip()
        for pattern, word in (self.varies | ({varies: "…"} if varies else {})).items():
            said, count = re.subn(pattern, word, said)
            assert count or pattern != varies, f"{varies} is not in this text: {said}"
        self.found.add(printable(said))
        if not WRITES:
            self._compare(self.found, self.found & self._golden)

    def end(self) -> None:
        if WRITES:
            renew(self.path, {self.key: self.found})
        else:
            self._compare(self.found, self._golden)

    @property
    def _golden(self) -> set[str]:
        return golden_texts(self.path).get(self.key, set())

    def _compare(self, found: set[str], golden: set[str]) -> None:
        if KINDS_ONLY:
            found, golden = ({one.partition(":")[0] for one in texts} for texts in (found, golden))
        if found != golden:
            lines = ndiff(sorted(self._golden), sorted(found))
            pytest.fail("\n".join((f"{self.path.relative_to(_ROOT)} differs. {HINT}", self.key, *lines)))


_of_the_test: _Refusals | None = None


@contextmanager
def refusals_of(item: pytest.Item) -> Iterator[None]:
    """Collect and compare the refusals of a test, for conftest.py."""
    global _of_the_test
    _of_the_test = _Refusals(item)
    yield
    _of_the_test.end()


@contextmanager
def refused(kind: Kinds = MaskLearnError, varies: str | None = None) -> Iterator[Refused]:
    """Needs an error in this block, with the golden sentence. varies: an expression for what differs from run to run."""
    found = Refused()
    with pytest.raises(kind) as caught:
        yield found
    found.error = error = caught.value
    if isinstance(error, MaskLearnError):
        _add(f"exit {error.exit_code}: {error.what}", varies)
    else:
        _add(f"{type(error).__name__}: {error}", varies)


def refusal(done: Any, varies: str | None = None) -> str:
    """Compares the error of a command with the golden sentence, and returns its text. done: from tests/commands.py."""
    assert done.returncode, done.stdout
    said: str = done.stderr[done.stderr.index("error: ") :]
    _add(f"exit {done.returncode}: {said}", varies)
    return said


def _add(said: str, varies: str | None) -> None:
    assert _of_the_test is not None, "Refusals are for tests, not for fixtures."
    _of_the_test.add(said, varies)


def key_of(item: pytest.Item) -> str:
    """Returns a test's name in its golden file."""
    return item.path.name + item.nodeid[item.nodeid.index("::") :]


def _adds(item: pytest.Item) -> bool:
    """Whether a test itself calls `refused` or `refusal`."""
    function: Any = getattr(item, "function", None)
    if not inspect.isfunction(function):
        return False
    known = {
        function.__globals__.get(name) for name in function.__code__.co_names if name.startswith("refus")
    }
    return not known.isdisjoint((refused, refusal))


@cache
def golden_texts(path: Path) -> dict[str, set[str]]:
    """Returns the refusals of each test in a golden file, as it was at first."""
    return _parse(path.read_text(encoding="utf-8") if path.exists() else "")


def _parse(text: str) -> dict[str, set[str]]:
    golden: dict[str, set[str]] = {}
    for line in text.splitlines():
        test, refusal, *cases = line.split("\t")
        for case in cases or [""]:
            golden.setdefault(test + case, set()).add(refusal)
    return golden


def renew(path: Path, changes: dict[str, set[str]]) -> None:
    """Replace the refusals of some tests in a golden file. Tests in other processes may do the same."""
    if not path.exists() and not any(changes.values()):
        return
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        lines: dict[tuple[str, str], list[str]] = {}
        for name, refusals in sorted((_parse(file.read()) | changes).items()):
            test, bracket, case = name.partition("[")
            for refusal in sorted(refusals):
                lines.setdefault((test, refusal), []).append(bracket + case)
        file.truncate(0)
        for line, cases in sorted(lines.items()):
            file.write("\t".join((*line, *filter(None, cases))) + "\n")


def stale(config: pytest.Config) -> dict[Path, list[str]]:
    """Returns the names in golden files that belong to no test, of files whose tests were all collected."""
    collected = {(item.path, key_of(item)) for item in config.stash[COLLECTED]}
    parts = {Path(argument.partition("::")[0]).resolve() for argument in config.args if "::" in argument}
    whole = {path for path, _ in collected} - parts
    found: dict[Path, list[str]] = {}
    for folder in {path.parent for path in whole}:
        for name in golden_texts(folder / NAME):
            path = folder / name.partition("::")[0]
            if (path in whole or not path.exists()) and (path, name) not in collected:
                found.setdefault(folder / NAME, []).append(name)
    return found


def missing(config: pytest.Config) -> list[str]:
    """Returns the collected tests that call `refused` or `refusal` and have no text in their golden file."""
    return [
        item.nodeid
        for item in config.stash[COLLECTED]
        if _adds(item) and key_of(item) not in golden_texts(item.path.with_name(NAME))
    ]
