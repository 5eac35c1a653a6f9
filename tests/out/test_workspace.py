import errno
import json
from pathlib import Path

import pytest

from patch_compile.errors import PatchCompileError
from patch_compile.out.layout import MANIFEST
from patch_compile.out.workspace import Workspace, key_of, sha256_of, write_json


def writer(text):
    def work(root: Path) -> None:
        (root / "a").mkdir(exist_ok=True)
        (root / "a" / "file.txt").write_text(text)

    return work


def never(_root):
    raise AssertionError("this stage must not run again")


def finish(workspace):
    write_json(workspace.root / MANIFEST, {"stages": workspace.stages()})
    return workspace.publish()


def test_out_appears_only_when_it_is_whole(tmp_path):
    out = tmp_path / "out"
    workspace = Workspace(out)
    workspace.run("one", "key", ["a"], writer("1"))
    assert not out.exists()
    finish(workspace)
    assert (out / "a" / "file.txt").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert {p.name for p in out.iterdir()} == {"a", MANIFEST}


def test_resume_runs_only_what_is_not_finished(tmp_path):
    first = Workspace(tmp_path / "out")
    first.run("one", "key", ["a"], writer("1"))
    with pytest.raises(KeyboardInterrupt):
        first.run("two", "key", ["b"], lambda root: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(PatchCompileError, match="unfinished build"):
        Workspace(tmp_path / "out")
    again = Workspace(tmp_path / "out", resume=True)
    again.run("one", "key", ["a"], never)
    assert again.reused == ["one"]
    again.run("one", "another key", ["a"], writer("2"))
    assert (finish(again) / "a" / "file.txt").read_text() == "2"


def test_a_damaged_file_is_made_again(tmp_path):
    first = Workspace(tmp_path / "out")
    first.run("one", "key", ["a"], writer("1"))
    (first.root / "a" / "file.txt").write_text("damaged")
    again = Workspace(tmp_path / "out", resume=True)
    again.run("one", "key", ["a"], writer("1"))
    assert not again.reused
    assert (again.root / "a" / "file.txt").read_text() == "1"


def test_force_replaces_out_and_keeps_what_is_unchanged(tmp_path):
    out = tmp_path / "out"
    first = Workspace(out)
    first.run("one", "key", ["a"], writer("1"))
    finish(first)
    with pytest.raises(PatchCompileError, match="exists"):
        Workspace(out)
    second = Workspace(out, force=True)
    second.run("one", "key", ["a"], never)
    assert (out / "a" / "file.txt").is_file()  # the old build stays until the new one is whole
    assert (finish(second) / "a" / "file.txt").read_text() == "1"
    third = Workspace(out, force=True)
    third.run("one", "new key", ["a"], writer("3"))
    assert (finish(third) / "a" / "file.txt").read_text() == "3"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_force_never_removes_a_folder_that_is_not_a_build(tmp_path):
    (tmp_path / "precious").mkdir()
    with pytest.raises(PatchCompileError, match="not made by patch-compile"):
        Workspace(tmp_path / "precious", force=True)


def test_a_full_disk_is_the_machines_error(tmp_path):
    workspace = Workspace(tmp_path / "out")

    def full(_root):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(PatchCompileError, match="No space left"):
        workspace.run("one", "key", ["a"], full)
    assert workspace.discard_if_empty()
    assert not list(tmp_path.iterdir())


def test_an_error_of_ours_stays_what_it_is(tmp_path):
    workspace = Workspace(tmp_path / "out")
    with pytest.raises(OSError, match="odd"):
        workspace.run("one", "key", ["a"], lambda root: (_ for _ in ()).throw(OSError(errno.EINVAL, "odd")))


def test_unreadable_state_is_said(tmp_path):
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / "state.json").write_text("{")
    with pytest.raises(PatchCompileError, match="cannot be read"):
        Workspace(tmp_path / "out", resume=True)


def test_keys_depend_on_every_part():
    assert key_of("a", [1, 2]) == key_of("a", [1, 2])
    assert len({key_of("a", 1), key_of("a", 2), key_of("b", 1), key_of("a", None)}) == 4


def test_hash_is_that_of_the_bytes(tmp_path):
    import hashlib

    file = tmp_path / "f"
    file.write_bytes(b"mosaic" * 1000)
    assert sha256_of(file) == hashlib.sha256(b"mosaic" * 1000).hexdigest()
    write_json(tmp_path / "x.json", {"a": 1})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
