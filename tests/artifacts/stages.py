"""Stages that write one file, and the end of a build of such stages."""

from pathlib import Path

from patch_compile.artifacts.layout import MANIFEST
from patch_compile.artifacts.manifest import Manifest, ModelOrigin, Ratio
from patch_compile.artifacts.workspace import Workspace


def writer(text):
    def work(root: Path) -> None:
        (root / "a").mkdir(exist_ok=True)
        (root / "a" / "file.txt").write_text(text)

    return work


def begun(out, text="1", **flags):
    """A build in which the stage that writes the text is done; its key is the text."""
    workspace = Workspace(out, **flags)
    workspace.run("one", text, ["a"], writer(text))
    return workspace


def never(_root):
    raise AssertionError("this stage must not run again")


def manifest_of(stages):
    """The manifest of a build with these stages."""
    return Manifest(
        model=ModelOrigin(path="m", sha256="0" * 64),
        ratio=Ratio(asked=0.3, reached=0.3),
        method="wanda",
        seed=0,
        versions={},
        files={name: digest for stage in stages.values() for name, digest in stage.files.items()},
        sizes={},
        stages=stages,
    )


def seal(workspace: Workspace) -> None:
    """Write the manifest of the finished stages."""
    manifest_of(workspace.records).write(workspace.root / MANIFEST)


def finish(workspace):
    seal(workspace)
    out = workspace.publish()
    workspace.release()
    return out
