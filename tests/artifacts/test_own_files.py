"""--force and --resume take away only what patch-compile wrote, and links are refused by name."""

import json
import os

import pytest

from masklearn.base.durable import is_temporary, temporary_file, temporary_name, whole_file
from patch_compile.artifacts.folder import OutFolder, kept_for_writing
from patch_compile.artifacts.layout import SCRATCH, STATE
from patch_compile.artifacts.lock import LOCK, FolderLock, lock_holder
from patch_compile.artifacts.place import check_apart
from patch_compile.artifacts.record import write_json
from patch_compile.artifacts.stage_files import foreign_files, remove_temporaries
from patch_compile.artifacts.workspace import Workspace
from tests.artifacts.stages import begun, finish
from tests.refusals import refused

MINE = ["notes.txt", ".git/HEAD", "a/notes.txt", "new/folder/file", ".env", "out.part"]


def put(folder, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("mine")


@pytest.mark.parametrize("name", MINE)
def test_builds_with_foreign_files_are_refused(tmp_path, name):
    out, unfinished = finish(begun(tmp_path / "out")), begun(tmp_path / "other")
    unfinished.release()
    for folder in (out, unfinished.root):
        put(folder, name)
    for place, flags in (
        (out, {"force": True}),
        (tmp_path / "other", {"force": True}),
        (tmp_path / "other", {"resume": True}),
    ):
        with refused():
            Workspace(place, **flags)
    assert (out / name).read_text() == (unfinished.root / name).read_text() == "mine"


def test_foreign_file_put_during_a_build_survives(tmp_path):
    out = finish(begun(tmp_path / "out"))
    workspace = begun(out, "2", force=True)
    put(out, "notes.txt")
    with refused():
        finish(workspace)
    put(workspace.root, "mine.txt")
    workspace.records.clear()
    assert not workspace.discard_if_empty()
    assert (out / "notes.txt").exists() and (workspace.root / "mine.txt").exists()


@pytest.mark.parametrize("place", ["", "a/", "a/deep/", f"{SCRATCH}/"])
@pytest.mark.parametrize("target", ["precious", "precious.txt", "nothing"])
def test_links_in_builds_are_refused_by_name(tmp_path, place, target):
    (tmp_path / "precious").mkdir()
    put(tmp_path, "precious.txt")
    out = finish(begun(tmp_path / "out"))
    unfinished = begun(tmp_path / "other")
    unfinished.release()
    for folder in (out, unfinished.root):
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / "link").symlink_to(tmp_path / target)
    for opens in (
        lambda: Workspace(out, force=True),
        lambda: Workspace(tmp_path / "other", force=True),
        lambda: Workspace(tmp_path / "other", resume=True),
        lambda: kept_for_writing(out).__enter__(),
        lambda: OutFolder.open(out),
    ):
        with refused():
            opens()
    assert not any((tmp_path / "precious").iterdir()) and (tmp_path / "precious.txt").read_text() == "mine"


def test_links_at_temporary_names_are_never_written(tmp_path, monkeypatch):
    put(tmp_path, "precious")
    fresh = iter(["0" * 16, "1" * 16, "2" * 16])
    monkeypatch.setattr("masklearn.base.durable.secrets.token_hex", lambda _bytes: next(fresh))
    (tmp_path / f".x.json.{'0' * 16}.part").symlink_to("precious")
    (tmp_path / f".x.json.{'1' * 16}.part").hardlink_to(tmp_path / "precious")
    for _ in range(2):
        with pytest.raises(FileExistsError):
            write_json(tmp_path / "x.json", {})
    (tmp_path / "x.json").symlink_to("precious")
    write_json(tmp_path / "x.json", {"a": 1})
    assert (
        json.loads((tmp_path / "x.json").read_text()) == {"a": 1} and not (tmp_path / "x.json").is_symlink()
    )
    assert (tmp_path / "precious").read_text() == "mine"


def test_temporary_names_are_known_and_removed(tmp_path):
    with pytest.raises(ValueError, match="odd"), whole_file(tmp_path / "a") as part:
        part.write_text("half")
        raise ValueError("odd")
    with temporary_file(tmp_path / "model.onnx") as part:
        assert is_temporary(part.name) and part.suffix == ".onnx"
    assert not list(tmp_path.iterdir())
    put(tmp_path, f"deep/{temporary_name('verify')}/file")
    put(tmp_path, temporary_name("x"))
    put(tmp_path, ".x.part")
    remove_temporaries(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"deep", ".x.part"} and not any(
        (tmp_path / "deep").iterdir()
    )


def test_a_later_step_replaces_only_its_own(tmp_path):
    out = OutFolder.open(finish(begun(tmp_path / "out")))
    with out.replacing("verify") as folder:
        put(folder, "verify.json")
    out = out.record_folder("verify", "key")
    with out.replacing("verify") as folder:
        put(folder, "other.json")
    out = out.record_folder("verify", "key")
    assert foreign_files(out.path, out.manifest.own_paths) == []
    put(out.path, "verify/notes.txt")
    with refused(), out.replacing("verify"):
        raise AssertionError("nothing may be replaced")
    put(out.path, "notes.txt")  # elsewhere in OUT it is in nobody's way
    (out.path / "verify" / "notes.txt").unlink()
    with out.replacing("verify"):
        pass
    assert (out.path / "notes.txt").exists() and not (out.path / "verify" / "other.json").exists()


def test_interrupted_later_step_leaves_no_foreign_files(tmp_path):
    out = OutFolder.open(finish(begun(tmp_path / "out")))
    with out.replacing("verify") as folder:
        put(folder, "verify.json")
    out.record_folder("verify", "key")
    out = OutFolder.open(out.path)
    out.forget("verify", "verify")  # and now it is killed: old files, and new files that nothing lists
    put(out.path, "verify/new.json")
    out = OutFolder.open(out.path)
    assert foreign_files(out.path, out.manifest.own_paths) == []
    with out.replacing("verify") as folder:
        put(folder, "verify.json")
    assert out.record_folder("verify", "key").manifest.unfinished == {}


def test_kills_in_rerun_stages_leave_no_leftovers(tmp_path):
    first = begun(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        first.run(
            "one", "2", ["a"], lambda root: (put(root, "a/other"), (_ for _ in ()).throw(KeyboardInterrupt))
        )
    first.release()
    again = Workspace(tmp_path / "out", resume=True)
    assert not again.records and not (again.root / "a").exists()
    again.release()


def test_inputs_in_out_are_refused(tmp_path):
    out = finish(begun(tmp_path / "out"))
    put(tmp_path, "model/config.json")
    put(tmp_path, "text.txt")
    (tmp_path / "link").symlink_to("out/a/file.txt")
    check_apart(out, [tmp_path / "model", tmp_path / "text.txt"])
    for inside in (
        out,
        out / "a",
        out / "a" / "file.txt",
        tmp_path / "link",
        tmp_path / "out.partial" / "text",
    ):
        with refused():
            check_apart(out, [tmp_path / "model", inside])
    for inside in (tmp_path / "model", tmp_path / "model" / "out", tmp_path / "model" / "deep" / "out"):
        with refused():
            check_apart(inside, [tmp_path / "model"])


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "fifo", "folder"])
def test_odd_lock_files_are_refused_at_once(tmp_path, kind):
    put(tmp_path, "precious")
    lock = tmp_path / LOCK
    if kind == "symlink":
        lock.symlink_to("precious")
    elif kind == "hardlink":
        lock.hardlink_to(tmp_path / "precious")
    elif kind == "fifo":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with refused():
        FolderLock(tmp_path)
    assert lock_holder(tmp_path) is None
    assert (tmp_path / "precious").read_text() == "mine"


def test_replaced_build_named_outside_is_refused(tmp_path):
    put(tmp_path / "secret.replaced-0123456789abcdef", "file")
    state = {"made_by": "patch-compile", "replaces": "./../secret.replaced-0123456789abcdef", "stages": {}}
    write_json(tmp_path / "here" / "out.partial" / STATE, state)
    with refused():
        Workspace(tmp_path / "here" / "out", resume=True)
    assert (tmp_path / "secret.replaced-0123456789abcdef" / "file").exists()
