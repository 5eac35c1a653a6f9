"""A finished build replaces OUT without losing anything, whatever fails and whenever the process dies."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from masklearn.base.durable import is_temporary
from patch_compile.artifacts.layout import MANIFEST, STATE
from patch_compile.artifacts.workspace import Workspace
from patch_compile.errors import PatchCompileError
from tests.artifacts.stages import begun, finish, never, seal, writer
from tests.refusals import refused

# Publishes a build of one stage and kills itself before file system operation number `deadly`.
DOOMED = """
import os, signal, sys
from pathlib import Path
from tests.artifacts.stages import begun, seal

out, deadly, count = Path(sys.argv[1]), int(sys.argv[2]), 0

def hook(event, _arguments):
    global count
    if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"):
        count += 1
        if count == deadly:
            os.kill(os.getpid(), signal.SIGKILL)

workspace = begun(out, "new", force=True)
seal(workspace)
sys.addaudithook(hook)
workspace.publish()
workspace.release()
print(count)
"""


def die(out, deadly):
    command = [sys.executable, "-c", DOOMED, str(out), str(deadly)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=os.environ | {"PYTHONPATH": "."}
    )


def text_of(out):
    return (out / "a" / "file.txt").read_text()


def neighbours(tmp_path):
    """A user's folders next to OUT, with names that a build might choose."""
    for name in ("out.old", "out.bak", ".out.replaced-0123456789abcdef", "out.partial.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MANIFEST).write_text(name)
    return {path.name for path in tmp_path.iterdir()}


def check_neighbours(tmp_path, names):
    assert {path.name for path in tmp_path.iterdir()} == names | {"out"}
    assert all((tmp_path / name / MANIFEST).read_text() == name for name in names)


def test_kills_while_publishing_lose_nothing(tmp_path):
    """The process dies before the first operation, before the second, and so on to the last."""
    between = 0
    for deadly in range(1, 200):
        folder = tmp_path / str(deadly)
        folder.mkdir()
        out, names = folder / "out", neighbours(folder)
        finish(begun(out, "old"))
        done = die(out, deadly)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        if not out.exists():
            between += 1
            with refused() as caught:
                Workspace(out)
            aside = next(
                Path(word) for word in caught.error.why.split(", ")[0].split() if ".replaced-" in word
            )
            assert text_of(aside) == "old"
        published = out.exists() and text_of(out) == "new"
        again = Workspace(out, force=out.exists(), resume=True)
        assert text_of(out) == ("new" if published else "old")  # the old build is put back before any work
        again.run("one", "new", ["a"], never)
        finish(again)
        assert text_of(out) == "new"
        assert {path.name for path in out.iterdir()} == {"a", MANIFEST}
        check_neighbours(folder, names)
    assert done.returncode == 0 and deadly > 15 and int(done.stdout) == deadly - 1
    assert between >= 1


def test_force_keeps_old_builds_until_done(tmp_path, monkeypatch):
    out = tmp_path / "out"
    left_between_the_renames(out, monkeypatch)
    anew = Workspace(out, force=True)
    assert text_of(out) == "old" and not anew.records
    anew.run("one", "third", ["a"], writer("third"))
    finish(anew)
    assert text_of(out) == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_foreign_builds_at_out_stay_apart(tmp_path, monkeypatch):
    out = tmp_path / "out"
    left_between_the_renames(out, monkeypatch)
    finish(begun(tmp_path / "other", "mine"))
    (tmp_path / "other").rename(out)
    with refused():
        Workspace(out, force=True, resume=True)
    assert text_of(out) == "mine"
    assert text_of(next(tmp_path.glob(".out.replaced-*"))) == "old"


def left_between_the_renames(out, monkeypatch):
    """Leave the state of a kill: the second rename fails, and so does undoing the first."""
    finish(begun(out, "old"))
    workspace = begun(out, "new", force=True)
    seal(workspace)
    with monkeypatch.context() as broken, refused():
        broken.setattr(os, "rename", failing({2, 3}, OSError(errno.EIO, "Input/output error")))
        workspace.publish()
    workspace.release()
    assert not out.exists()


def test_kills_after_the_second_rename_resume(tmp_path):
    """OUT is complete then, but holds files that only publishing needed. Without --resume it is an OUT like any other."""
    out = tmp_path / "out"
    workspace = begun(out, "1")
    state = (workspace.root / STATE).read_bytes()
    finish(workspace)
    (out / STATE).write_bytes(state)
    with refused():
        Workspace(out)
    again = Workspace(out, resume=True)
    again.run("one", "1", ["a"], never)
    finish(again)
    assert text_of(out) == "1"
    assert {path.name for path in out.iterdir()} == {"a", MANIFEST}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def failing(numbers, error):
    """Make os.rename fail at these calls, counted from 1."""
    rename, calls = os.rename, []

    def fail(source, target):
        calls.append(source)
        if len(calls) in numbers:
            raise error
        rename(source, target)

    return fail


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("error", [OSError(errno.EBUSY, "Device or resource busy"), KeyboardInterrupt()])
def test_failed_renames_are_undone(tmp_path, monkeypatch, number, error):
    names, out = neighbours(tmp_path), tmp_path / "out"
    finish(begun(out, "old"))
    workspace = begun(out, "new", force=True)
    seal(workspace)
    with monkeypatch.context() as broken, pytest.raises((PatchCompileError, KeyboardInterrupt)) as caught:
        broken.setattr(os, "rename", failing({number}, error))
        workspace.publish()
    if isinstance(error, OSError):
        assert "can't be put in place" in caught.value.what and "--resume" in caught.value.fix
    assert not workspace.discard_if_empty()
    workspace.release()
    assert text_of(out) == "old"
    again = Workspace(out, force=True, resume=True)
    again.run("one", "new", ["a"], never)
    finish(again)
    assert text_of(out) == "new"
    check_neighbours(tmp_path, names)


@pytest.mark.parametrize("name", ["folder", "file", "build"])
def test_late_arrivals_at_out_stay(tmp_path, name):
    out = tmp_path / "out"
    workspace = begun(out, "1")
    seal(workspace)
    if name == "build":
        finish(begun(tmp_path / "other", "mine")).rename(out)
    else:
        out.write_text("mine") if name == "file" else out.mkdir()
    with refused():
        workspace.publish()
    assert not workspace.discard_if_empty()
    workspace.release()
    assert out.is_file() or not list(out.iterdir()) or text_of(out) == "mine"
    assert text_of(tmp_path / "out.partial") == "1"


def test_unremovable_leftovers_are_named(tmp_path, monkeypatch):
    """The old build's files can't be removed now, but the next --force removes them."""
    out = tmp_path / "out"
    finish(begun(out, "old"))
    workspace = begun(out, "new", force=True)
    seal(workspace)
    with monkeypatch.context() as broken, refused():
        broken.setattr(
            os, "unlink", lambda *_a, **_k: (_ for _ in ()).throw(PermissionError(errno.EPERM, "no"))
        )
        workspace.publish()
    assert workspace.discard_if_empty()
    workspace.release()
    assert text_of(out) == "new"
    finish(begun(out, "new", force=True))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name for path in out.iterdir()} == {"a", MANIFEST}


def test_files_are_flushed_before_renames(tmp_path, monkeypatch):
    done, fsync, rename = [], os.fsync, os.rename

    def flush(descriptor):
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    def move(source, target):
        done.append((Path(source).name, Path(target).name))
        rename(source, target)

    workspace = begun(tmp_path / "out", "1")
    monkeypatch.setattr(os, "fsync", flush)
    seal(workspace)
    part, folder = done
    assert part.parent == folder == workspace.root and is_temporary(part.name) and MANIFEST in part.name
    done.clear()
    monkeypatch.setattr(os, "rename", move)
    workspace.publish()
    before = done[: done.index(("out.partial", "out"))]
    root = workspace.root
    assert {root, root / "a", root / "a" / "file.txt", root / MANIFEST, root / "state.json"} <= {*before}
    assert done[len(before) + 1 :] == [tmp_path, tmp_path / "out"]
