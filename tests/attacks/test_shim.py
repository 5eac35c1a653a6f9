"""The shim counts operations of Python and of native code, and makes each of them fail."""

import errno
import signal

import pytest

from tests.attacks.faults.shim import COMPILER, Fault, work_under

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")

PYTHON = """
(folder / "a").mkdir()
with (folder / "a" / "f").open("wb") as file:
    file.write(b"12345678"); file.flush(); os.fsync(file.fileno()); file.truncate(4)
(folder / "a" / "f").rename(folder / "a" / "g")
os.link(folder / "a" / "g", folder / "a" / "h")
(folder / "a" / "g").unlink(); (folder / "a" / "h").unlink(); (folder / "a").rmdir()
"""
COUNTED = ["mkdir", "open", "write", "fsync", "ftruncate", "rename", "link", "unlink", "unlink", "rmdir"]
# Python, a FILE* of libc, and Rust's writes.
WRITES = (
    '(folder / "f").write_bytes(b"\\x01" * 1000)',
    'import numpy; numpy.save(folder / "f.npy", numpy.ones(100_000, "u1"))',
    "import numpy, safetensors.numpy as s; s.save_file({'x': numpy.ones(1000, 'u1')}, folder / 'f.safetensors')",
)


def test_every_operation_is_counted_and_can_fail(tmp_path):
    code, error, operations = work_under(Fault.NONE, 0, tmp_path / "whole", PYTHON)
    assert (code, error, [name for name, _ in operations]) == (0, "", COUNTED)
    for at, name in enumerate(COUNTED, 1):
        code, error, operations = work_under(Fault.EIO, at, tmp_path / f"eio-{at}", PYTHON)
        assert (code, error, operations[at - 1][0]) == (0, str(errno.EIO), name)


@pytest.mark.parametrize("work", WRITES)
def test_native_writers_can_fail(tmp_path, work):
    _, error, operations = work_under(Fault.NONE, 0, tmp_path / "whole", work)
    assert not error and sum(size for _, size in operations) >= 1000
    at = next(i for i, (name, size) in enumerate(operations, 1) if name == "write" and size >= 1000)
    assert work_under(Fault.EIO, at, tmp_path / "eio", work)[1]
    code, _, _ = work_under(Fault.TORN, at, tmp_path / "torn", work)
    (written,) = (tmp_path / "torn").iterdir()
    assert code == -signal.SIGKILL and 0.4 < written.read_bytes().count(1) / operations[at - 1][1] < 0.6


@pytest.mark.parametrize("flushed", [True, False])
def test_a_power_cut_loses_what_was_not_flushed(tmp_path, flushed):
    work = f"""
with (folder / "f").open("wb") as file:
    file.write(b"1" * 1000); file.flush(); {"os.fsync(file.fileno())" if flushed else "pass"}
(folder / "f").rename(folder / "g")
(folder / "h").mkdir()
"""
    code, _, operations = work_under(Fault.POWER, 5 if flushed else 4, tmp_path / "cut", work)
    assert code == -signal.SIGKILL and operations[-1][0] == "mkdir"
    assert (tmp_path / "cut" / "g").stat().st_size == (1000 if flushed else 500)
