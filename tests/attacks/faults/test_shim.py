"""The shim counts operations of Python and of native code, and makes each of them fail."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attacks.faults.shim import COMPILER, Fault, compiled

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")

# Arms the shim for a folder, does something in it, and prints the error that this had.
SCRIPT = """
import os, sys
from pathlib import Path
from tests.attacks.faults.shim import Fault, arm

folder, fault, at, work = Path(sys.argv[1]), Fault[sys.argv[2]], int(sys.argv[3]), compile(sys.argv[4], "work", "exec")
log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
if "import" in sys.argv[4]:
    import numpy, safetensors.numpy
arm([folder], fault, at, log)
try:
    exec(work)
except OSError as error:
    print(error.errno)
except Exception as error:
    print(error)
"""
PYTHON = """
(folder / "a").mkdir()
with (folder / "a" / "f").open("wb") as file:
    file.write(b"12345678"); file.flush(); os.fsync(file.fileno()); file.truncate(4)
(folder / "a" / "f").rename(folder / "a" / "g")
os.link(folder / "a" / "g", folder / "a" / "h")
(folder / "a" / "g").unlink(); (folder / "a" / "h").unlink(); (folder / "a").rmdir()
"""
COUNTED = ["mkdir", "open", "write", "fsync", "ftruncate", "rename", "link", "unlink", "unlink", "rmdir"]
WRITE = '(folder / "f").write_bytes(b"\\x01" * 1000)'
# A FILE* of libc, and Rust's writes.
NUMPY = 'import numpy; numpy.save(folder / "f.npy", numpy.ones(100_000, "u1"))'
SAFETENSORS = "import numpy, safetensors.numpy as s; s.save_file({'x': numpy.ones(1000, 'u1')}, folder / 'f.safetensors')"


def do(folder, work, fault=Fault.NONE, at=0):
    """Returns the exit code, the error, and name and bytes of each operation that changes files."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", SCRIPT, str(folder), fault.name, str(at), work]
    env = os.environ | {
        "LD_PRELOAD": str(compiled(Path(__file__).parents[3] / "build" / "torture")),
        "PYTHONPATH": ".",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)
    assert not done.stderr, done.stderr
    lines = [line.split(" ", 4) for line in folder.with_suffix(".log").read_text().splitlines()]
    return done.returncode, done.stdout.strip(), [(one[2], int(one[3])) for one in lines if one[0] in "cg"]


def test_every_operation_is_counted_and_can_fail(tmp_path):
    code, error, operations = do(tmp_path / "whole", PYTHON)
    assert (code, error, [name for name, _ in operations]) == (0, "", COUNTED)
    for at in range(1, len(COUNTED) + 1):
        code, error, operations = do(tmp_path / f"eio-{at}", PYTHON, Fault.EIO, at)
        assert (code, error, operations[at - 1][0]) == (0, str(errno.EIO), COUNTED[at - 1])


@pytest.mark.parametrize("work", [WRITE, NUMPY, SAFETENSORS])
def test_native_writers_can_fail(tmp_path, work):
    _, error, operations = do(tmp_path / "whole", work)
    assert not error and sum(size for _, size in operations) >= 1000
    at = next(i for i, (name, size) in enumerate(operations, 1) if name == "write" and size >= 1000)
    _, error, _ = do(tmp_path / "eio", work, Fault.EIO, at)
    assert error
    code, _, _ = do(tmp_path / "torn", work, Fault.TORN, at)
    (written,) = (tmp_path / "torn").iterdir()
    assert code == -signal.SIGKILL and 0.4 < written.read_bytes().count(1) / operations[at - 1][1] < 0.6


def test_a_full_disk_stays_full_but_files_can_be_removed(tmp_path):
    work = """
for name in "ab":
    try:
        (folder / name).write_text("1")
    except OSError as error:
        print(error.errno)
(folder / "a").unlink()
"""
    assert do(tmp_path / "full", work, Fault.FULL, 2)[:2] == (0, f"{errno.ENOSPC}\n{errno.ENOSPC}")
    assert not list((tmp_path / "full").iterdir())


@pytest.mark.parametrize("flushed", [True, False])
def test_a_power_cut_loses_what_was_not_flushed(tmp_path, flushed):
    flush = "os.fsync(file.fileno())" if flushed else "pass"
    work = f"""
with (folder / "f").open("wb") as file:
    file.write(b"1" * 1000); file.flush(); {flush}
(folder / "f").rename(folder / "g")
(folder / "h").mkdir()
"""
    at = 5 if flushed else 4
    code, _, operations = do(tmp_path / "cut", work, Fault.POWER, at)
    assert code == -signal.SIGKILL and operations[-1][0] == "mkdir"
    assert (tmp_path / "cut" / "g").stat().st_size == (1000 if flushed else 500)


def test_reads_fail_too(tmp_path):
    (tmp_path / "read").mkdir()
    (tmp_path / "read" / "f").write_text("1")
    work = 'print((folder / "f").read_text())'
    assert do(tmp_path / "read", work)[1] == "1"
    for at in (1, 2):  # opening it, and reading it
        assert do(tmp_path / "read", work, Fault.EIO_READ, at)[1] == str(errno.EIO)
