"""Changes the files that a build reads, one at a time, and compares the results."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks.reproduce import LEGITIMATE, compare, sort_out
from tests.refusals import refused

_SWAPPED = {b"cat": b"dog", b"dog": b"cat", b"0.7": b"0.8"}


def files_below(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


@contextmanager
def changed(file: Path) -> Iterator[None]:
    """Change a file inside this context into another valid file, and restore its time of change as `rsync -t` does."""
    before, found = file.read_bytes(), file.stat()
    _change(file, before)
    assert file.read_bytes() != before
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    try:
        yield
    finally:
        file.write_bytes(before)


def assert_changes_are_named(inputs: Path, source: Any, build: Callable[[], object]) -> None:
    """Change each file below `inputs` right after the source has learned: the build is refused, and the error names it."""
    real = source.learn
    for file in files_below(inputs):
        with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:

            def learn_and_change(*arguments: Any, file: Path = file, stack: ExitStack = stack) -> Any:
                found = real(*arguments)
                stack.enter_context(changed(file))
                return found

            patch.setattr(source, "learn", learn_and_change)
            with refused():
                build()


def differences(one: Path, other: Path) -> list[str]:
    """Returns the differences of two OUT folders, except times and places."""
    return sort_out([each for _, found in compare(one, other) for each in found], LEGITIMATE)[1]


def _change(file: Path, before: bytes) -> None:
    if file.suffix in (".safetensors", ".weight", ".bias"):
        file.write_bytes(before[:-8] + before[-4:] + before[-8:-4])  # the last two weights change places
    elif file.suffix == ".npz":
        np.savez(file, **{name: array * 2 for name, array in np.load(file).items()})
    elif file.suffix == ".onnx":
        proto = onnx.load(file, load_external_data=False)
        proto.doc_string += "changed"
        onnx.save(proto, file)
    else:
        after = re.sub(rb"\b(cat|dog|0\.7)\b", lambda found: _SWAPPED[found[0]], before)
        file.write_bytes(after if after != before else before + b"\n")
