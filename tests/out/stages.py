"""Stages that write one file, and the end of a build of such stages."""

from pathlib import Path

from patch_compile.out.durable import write_json
from patch_compile.out.layout import MANIFEST
from patch_compile.out.state import stages_of

__all__ = ["finish", "never", "writer"]


def writer(text):
    def work(root: Path) -> None:
        (root / "a").mkdir(exist_ok=True)
        (root / "a" / "file.txt").write_text(text)

    return work


def never(_root):
    raise AssertionError("this stage must not run again")


def finish(workspace):
    write_json(workspace.root / MANIFEST, {"stages": stages_of(workspace.records)})
    out = workspace.publish()
    workspace.release()
    return out
