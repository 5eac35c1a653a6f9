"""Spellings of OUT: the folder they mean, and refused spellings."""

import os
from pathlib import Path

import pytest

from patch_compile.artifacts.place import place_of
from patch_compile.artifacts.workspace import Workspace
from tests.artifacts.stages import begun, finish
from tests.refusals import refused


def tree(folder: Path) -> dict[str, str | None]:
    """All paths below a folder, with their texts."""
    return {str(p.relative_to(folder)): p.read_text() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Makes a folder in tmp_path a finished build and the current folder."""
    finish(begun(tmp_path / "models" / "build", "1"))
    monkeypatch.chdir(tmp_path / "models" / "build")
    return tmp_path


@pytest.mark.parametrize(
    "spelled", ["", ".", "./", "..", "../", "../..", "a/..", "a/../..", "/", "//", "../build"]
)
@pytest.mark.parametrize("flags", [{}, {"force": True}, {"resume": True}])
def test_current_folder_and_parents_are_refused(here, spelled, flags):
    before = tree(here)
    with refused():
        Workspace(Path(spelled), **flags)
    assert tree(here) == before


def test_a_current_folder_that_was_removed_is_said(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with refused():
        place_of(Path("out"))


@pytest.mark.skipif(not os.path.ismount("/proc"), reason="needs a mount point")
def test_a_mount_point_is_refused():
    with refused():
        Workspace(Path("/proc"), force=True)


def test_a_link_to_a_build_means_the_build(tmp_path, monkeypatch):
    finish(begun(tmp_path / "disk" / "build", "1"))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "neighbour").write_text("kept")
    monkeypatch.chdir(tmp_path / "here")
    Path("latest").symlink_to("../disk/build")
    with refused():
        Workspace(Path("latest"))
    out = finish(begun(Path("latest"), "2", force=True))
    assert out == tmp_path / "disk" / "build"
    assert Path("latest").readlink() == Path("../disk/build")
    assert Path("latest/a/file.txt").read_text() == "2"
    assert {path.name for path in Path.cwd().iterdir()} == {"latest", "neighbour"}
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["build"]
    assert Workspace.scratch_of(Path("latest")) == tmp_path / "disk" / "build.partial" / "scratch"


@pytest.mark.parametrize("flags", [{}, {"force": True}, {"resume": True}])
def test_a_link_to_nothing_is_refused(tmp_path, flags):
    (tmp_path / "out").symlink_to("unmounted/out")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("out", "loop"):
        with refused():
            Workspace(tmp_path / name, **flags)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loop", "out"]


def test_links_and_dots_on_the_way_are_followed(tmp_path, monkeypatch):
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("disk/deep")
    monkeypatch.chdir(tmp_path)
    assert place_of(Path("link/../new")) == tmp_path / "disk" / "new"  # the kernel resolves it like this
    assert place_of(Path("link/new/")) == tmp_path / "disk" / "deep" / "new"
    (tmp_path / "loop").symlink_to("loop")
    with refused():
        place_of(Path("loop/new"))


@pytest.mark.parametrize(
    "spelled",
    [
        "file/out",
        "file/deep/out",
        pytest.param("x" * 230, id="230 letters"),
        pytest.param("x" * 300, id="300 letters"),
        pytest.param("\N{SNOWMAN}" * 80, id="80 snowmen"),
        pytest.param("nul\0", id="null"),
    ],
)
def test_unnameable_outs_are_refused(tmp_path, monkeypatch, spelled):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    with refused():
        Workspace(Path(spelled))
    assert tree(tmp_path) == {"file": "mine"}


def test_long_names_can_be_replaced(tmp_path):
    name = "x" * 228
    finish(begun(tmp_path / name, "1"))
    finish(begun(tmp_path / name, "2", force=True))
    assert (tmp_path / name / "a" / "file.txt").read_text() == "2"


@pytest.mark.parametrize("content", [None, '{"manifest_version": 3}', '{"stages": {}}'])
def test_other_programs_folders_are_not_replaced(tmp_path, content):
    """It has no manifest, or a manifest of a browser's extension or of a web project."""
    (tmp_path / "theirs" / "src").mkdir(parents=True)
    if content:
        (tmp_path / "theirs" / "manifest.json").write_text(content)
    before = tree(tmp_path / "theirs")
    with refused():
        Workspace(tmp_path / "theirs", force=True)
    assert tree(tmp_path / "theirs") == before
