"""Only one process at a time works on an unfinished build, or writes into or replaces a finished build."""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from patch_compile import file_lock
from patch_compile.artifacts.folder import kept_for_writing
from patch_compile.artifacts.layout import MANIFEST
from patch_compile.artifacts.lock import LOCK, FolderLock, lock_holder
from patch_compile.artifacts.workspace import Workspace
from patch_compile.file_lock import VARIABLE
from patch_compile.plugin.compiling import locked
from patch_compile.timing.request import BenchRequest
from patch_compile.timing.run import bench
from patch_compile.verification.request import VerifyRequest
from patch_compile.verification.verify import verify
from tests.artifacts.stages import begun, finish, never
from tests.refusals import refused

BUILD = """
import sys, time
from pathlib import Path
from patch_compile.artifacts.workspace import Workspace

workspace = Workspace(Path(sys.argv[1]), force=True)
workspace.run("one", "key", ["a"], lambda root: (root / "a").write_text("1"))
print("building", flush=True)
time.sleep(600)
"""
WRITE = """
import sys, time
from pathlib import Path
from patch_compile.artifacts.folder import kept_for_writing

with kept_for_writing(Path(sys.argv[1])):
    print("writing", flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def other_process(code, out):
    """Another process that holds OUT until it is killed."""
    command, env = [sys.executable, "-c", code, str(out)], os.environ | {"PYTHONPATH": "."}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout is not None and process.stdout.readline().strip()
            yield process
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


@pytest.fixture
def out(tmp_path):
    return finish(begun(tmp_path / "out", "old"))


@pytest.mark.parametrize("flags", [{}, {"force": True}, {"resume": True}, {"force": True, "resume": True}])
def test_a_second_build_into_out_is_refused(tmp_path, flags):
    with other_process(BUILD, tmp_path / "out"):
        with refused():
            Workspace(tmp_path / "out", **flags)
        assert (tmp_path / "out.partial" / "a").read_text() == "1"
        assert (tmp_path / "out.partial" / "scratch").is_dir()
        assert Workspace.scratch_of(tmp_path / "out").is_dir()  # the launch's other processes take no lock
    again = Workspace(tmp_path / "out", resume=True)  # a killed process holds nothing
    again.run("one", "key", ["a"], never)
    finish(again)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", MANIFEST}


@pytest.mark.parametrize("spelled", [".", "./out", "..", "link", "folder/../out", "there/out"])
def test_spelling_of_out_does_not_matter(out, tmp_path, monkeypatch, spelled):
    """The first build replaces an earlier build, to which links and the current folder lead."""
    (tmp_path / "link").symlink_to("out")
    (tmp_path / "there").symlink_to(".")
    (tmp_path / "folder").mkdir()
    with other_process(BUILD, out):
        monkeypatch.chdir(out if spelled == "." else out / "a" if spelled == ".." else tmp_path)
        with refused():
            Workspace(Path(spelled), force=True)
    assert (out / "a" / "file.txt").read_text() == "old"
    assert (tmp_path / "out.partial" / "a").read_text() == "1"


def test_a_second_build_of_this_process_is_refused(tmp_path):
    first = Workspace(tmp_path / "out")
    with refused():
        Workspace(tmp_path / "out", resume=True)
    first.release()
    first.release()
    Workspace(tmp_path / "out", resume=True)


def test_verify_and_bench_respect_replacements(out):
    with other_process(BUILD, out):
        for command in (lambda: verify(out, VerifyRequest()), lambda: bench(out, BenchRequest())):
            with refused():
                command()
    # The killed process's lock file is still there.
    assert {path.name for path in out.iterdir()} == {"a", MANIFEST, LOCK}
    with kept_for_writing(out):
        pass
    assert {path.name for path in out.iterdir()} == {"a", MANIFEST}


def test_builds_replace_nothing_in_use(out, tmp_path):
    with other_process(WRITE, out):
        for flags in ({"force": True}, {"force": True, "resume": True}):
            with refused():
                Workspace(out, **flags)
        with refused(), kept_for_writing(out):
            pass
    assert (out / "a" / "file.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    Workspace(out, force=True, resume=True)


def test_the_lock_moves_with_the_build(tmp_path):
    """No other process writes into OUT until the page is written."""
    workspace = Workspace(tmp_path / "out")
    (workspace.root / MANIFEST).write_text('{"stages": {}}')
    out = workspace.publish()
    with refused(), kept_for_writing(out):
        pass
    workspace.release()
    with kept_for_writing(out):
        pass
    assert [path.name for path in out.iterdir()] == [MANIFEST]


def test_removed_locks_are_taken_anew(tmp_path):
    first = FolderLock(tmp_path)
    (tmp_path / LOCK).unlink()
    second = FolderLock(tmp_path)
    first.release()  # must not remove the second lock's file
    assert lock_holder(tmp_path) == f"pid {os.getpid()}"
    second.release()
    assert lock_holder(tmp_path) is None and not list(tmp_path.iterdir())


def test_a_file_system_without_locks_needs_the_variable(out, monkeypatch):
    """As old NFS does it: every flock fails, whatever it asks for."""

    def fail(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    kernel = SimpleNamespace(**vars(fcntl) | {"flock": fail})
    monkeypatch.setattr(file_lock, "fcntl", kernel)
    for use in (lambda: Workspace(out, force=True), lambda: kept_for_writing(out).__enter__()):
        with refused():
            use()
    with refused(), locked(out.parent / "kernels"):
        pass
    monkeypatch.setenv(VARIABLE, "1")
    with kept_for_writing(out), locked(out.parent / "kernels"):
        pass
    assert (finish(begun(out, "new", force=True)) / "a" / "file.txt").read_text() == "new"


def test_the_variable_takes_no_lock_away(out, monkeypatch):
    monkeypatch.setenv(VARIABLE, "1")
    with other_process(WRITE, out), refused(), kept_for_writing(out):
        pass


def test_a_lock_needs_its_folder(tmp_path):
    with refused():
        FolderLock(tmp_path / "missing")
