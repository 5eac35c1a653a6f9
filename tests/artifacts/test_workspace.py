import errno

import pytest

from masklearn.base.durable import temporary_name
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.layout import MANIFEST
from patch_compile.artifacts.record import write_json
from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.artifacts.workspace import Workspace
from patch_compile.inspection import inspect_path
from patch_compile.runtime import open_generator
from tests.artifacts.stages import begun, finish, never, writer
from tests.refusals import refused


def test_out_appears_only_when_it_is_whole(tmp_path):
    out = tmp_path / "out"
    workspace = begun(out)
    assert not out.exists()
    finish(workspace)
    assert (out / "a" / "file.txt").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert {p.name for p in out.iterdir()} == {"a", MANIFEST}


def test_resume_runs_only_what_is_not_finished(tmp_path):
    first = begun(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        first.run("two", "key", ["b"], lambda root: (_ for _ in ()).throw(KeyboardInterrupt))
    first.release()
    with refused():
        Workspace(tmp_path / "out")
    again = Workspace(tmp_path / "out", resume=True)
    again.run("one", "1", ["a"], never)
    assert again.reused == ["one"]
    again.run("one", "another key", ["a"], writer("2"))
    assert (finish(again) / "a" / "file.txt").read_text() == "2"


@pytest.mark.parametrize("named", ["out", "out.partial"])
@pytest.mark.parametrize("opened", [OutFolder.open, inspect_path, open_generator])
def test_an_unfinished_out_is_called_unfinished(tmp_path, opened, named):
    workspace = begun(tmp_path / "out")
    with refused():
        opened(tmp_path / named)
    workspace.release()
    with refused():
        opened(tmp_path / named)


def test_dropped_stages_are_not_published(tmp_path):
    first = Workspace(tmp_path / "out")
    first.run("masks", "1", ["a"], writer("masks"))
    first.run("engine", "1", ["b"], lambda root: (root / "b").write_text("engine") and None)
    first.release()
    second = Workspace(tmp_path / "out", resume=True)
    second.run("masks", "1", ["a"], never)
    second.drop("engine", ["b"])
    second.drop("proof", ["c"])  # never run
    assert set(second.records) == {"masks"}
    out = finish(second)
    assert (out / "a").is_dir() and not (out / "b").exists()


def test_a_damaged_file_is_made_again(tmp_path):
    first = begun(tmp_path / "out")
    (first.root / "a" / "file.txt").write_text("damaged")
    first.release()
    again = begun(tmp_path / "out", "1", resume=True)
    assert not again.reused
    assert (again.root / "a" / "file.txt").read_text() == "1"


def test_force_replaces_out_and_keeps_what_is_unchanged(tmp_path):
    out = tmp_path / "out"
    first = begun(out)
    finish(first)
    with refused():
        Workspace(out)
    second = Workspace(out, force=True)
    second.run("one", "1", ["a"], never)
    assert (out / "a" / "file.txt").is_file()  # the old build stays until the new one is complete
    assert (finish(second) / "a" / "file.txt").read_text() == "1"
    third = begun(out, "3", force=True)
    assert (finish(third) / "a" / "file.txt").read_text() == "3"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_the_machines_error(tmp_path):
    workspace = Workspace(tmp_path / "out")

    def full(_root):
        raise OSError(errno.ENOSPC, "No space left on device")

    with refused():
        workspace.run("one", "key", ["a"], full)
    assert workspace.discard_if_empty()
    assert not list(tmp_path.iterdir())


def test_an_error_of_ours_stays_what_it_is(tmp_path):
    workspace = Workspace(tmp_path / "out")
    with pytest.raises(OSError, match="odd"):
        workspace.run("one", "key", ["a"], lambda root: (_ for _ in ()).throw(OSError(errno.EINVAL, "odd")))


class TestAFolderThatIsNotOurs:
    """A user's folder that happens to be called OUT.partial."""

    @pytest.fixture
    def theirs(self, tmp_path):
        (tmp_path / "out.partial" / "scratch").mkdir(parents=True)
        (tmp_path / "out.partial" / "thesis.tex").write_text("years")
        return tmp_path / "out.partial"

    @pytest.mark.parametrize(
        "flags", [{}, {"force": True}, {"resume": True}, {"force": True, "resume": True}]
    )
    def test_is_refused_whatever_the_flags(self, theirs, tmp_path, flags):
        with refused():
            Workspace(tmp_path / "out", **flags)
        assert {path.name for path in theirs.iterdir()} == {"scratch", "thesis.tex"}
        assert (theirs / "thesis.tex").read_text() == "years"

    @pytest.mark.parametrize(
        "state",
        [
            "{",
            "[]",
            "{}",
            '{"stages": {}}',
            '{"stages": []}',
            '{"version": 4, "stages": {"a": 1}}',
            "[" * 99999,
        ],
    )
    def test_other_programs_state_files_are_refused(self, theirs, tmp_path, state):
        (theirs / "state.json").write_text(state)
        for flags in ({"force": True}, {"resume": True}):
            with refused():
                Workspace(tmp_path / "out", **flags)
        assert (theirs / "thesis.tex").read_text() == "years"
        assert (theirs / "state.json").read_text() == state

    def test_links_and_files_at_out_are_refused(self, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "out.partial").symlink_to("elsewhere")
        (tmp_path / "other.partial").write_text("mine")
        for name in ("out", "other"):
            with refused():
                Workspace(tmp_path / name, force=True)
        assert (tmp_path / "out.partial").is_symlink() and (tmp_path / "elsewhere").is_dir()
        assert (tmp_path / "other.partial").read_text() == "mine"


def test_early_kills_leave_a_known_run(tmp_path):
    first = Workspace(tmp_path / "out")
    (first.scratch / "checkpoint-2").write_text("trained")
    first.release()
    again = Workspace(tmp_path / "out", resume=True)
    assert (again.scratch / "checkpoint-2").read_text() == "trained"
    again.release()
    anew = Workspace(tmp_path / "out", force=True)
    assert not list(anew.scratch.iterdir())


def test_states_name_no_file_outside_their_folder(tmp_path):
    (tmp_path / "precious").write_text("kept")
    record = {"one": {"key": "key", "files": {"../precious": sha256_of(tmp_path / "precious")}}}
    write_json(tmp_path / "out.partial" / "state.json", {"made_by": "patch-compile", "stages": record})
    with refused():
        Workspace(tmp_path / "out", resume=True)
    assert (tmp_path / "precious").read_text() == "kept"


def test_litter_of_a_killed_run_is_not_published(tmp_path):
    def killed(root):
        for litter in ("b/half", "b/empty/.x", temporary_name("c")):
            (root / litter).parent.mkdir(parents=True, exist_ok=True)
            (root / litter).write_text("half")
        raise KeyboardInterrupt  # a kill: nothing of ours runs after it

    first = begun(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        first.run("two", "key", ["b"], killed)
    for name in (f"a/{temporary_name('file.txt')}", "recipe.yaml"):
        (first.root / name).write_text("half")
    (first.scratch / "checkpoint-2").write_text("trained")
    first.release()
    again = Workspace(tmp_path / "out", resume=True)
    again.run("one", "1", ["a"], never)
    assert (again.scratch / "checkpoint-2").is_file()
    out = finish(again)
    assert {str(path.relative_to(out)) for path in out.rglob("*")} == {MANIFEST, "a", "a/file.txt"}


@pytest.mark.parametrize("how", ["removed", "replaced"])
@pytest.mark.parametrize("when", ["in a stage", "at its end", "between stages", "before the end"])
@pytest.mark.parametrize("finished", [True, False])
def test_builds_removed_midway_fail_clearly(tmp_path, how, when, finished):
    def removing(root):
        root.rename(tmp_path / "gone")
        if how == "replaced":
            (root / "a").mkdir(parents=True)
            (root / "a" / "mine").write_text("mine")
        if when == "in a stage":
            (root / "a" / "file.txt").write_text("1")
            raise ValueError("a library that found its file missing")

    build = Workspace(tmp_path / "out")
    if finished:
        build.run("one", "key", ["a"], writer("1"))
    with refused():
        if when == "before the end":
            removing(build.root)
            build.publish()
        elif when == "between stages":
            removing(build.root)
            build.run("two", "key", ["a"], writer("2"))
        else:
            build.run("two", "key", ["b"], removing)
    build.discard_if_empty()
    build.release()
    assert not (tmp_path / "out").exists()
    if how == "replaced":
        assert (build.root / "a" / "mine").read_text() == "mine"
    else:
        assert not (build.root / "state.json").exists()


def test_files_removed_midway_stop_publishing(tmp_path):
    build = begun(tmp_path / "out")
    (build.root / "a" / "file.txt").unlink()
    with refused():
        finish(build)
    build.release()
    again = begun(tmp_path / "out", "1", resume=True)
    assert (finish(again) / "a" / "file.txt").read_text() == "1"


def test_removing_out_midway_does_no_harm(tmp_path):
    build = begun(tmp_path / "out", "old")
    finish(build)
    anew = Workspace(tmp_path / "out", force=True)
    (tmp_path / "out").rename(tmp_path / "gone")
    anew.run("one", "new", ["a"], writer("new"))
    assert (finish(anew) / "a" / "file.txt").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"out", "gone"}
