"""manifest.json: the inputs of a run, the versions that it ran with, and the sha256 of every file in OUT."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field

from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import TextRecord
from patch_compile.out.layout import MANIFEST, RECIPE
from patch_compile.out.record import FileRecord, Record
from patch_compile.out.stage_files import sha256_of
from patch_compile.out.state import StageRecord, path_in_out
from patch_compile.out.workspace import Workspace

__all__ = ["EvalText", "Manifest", "ModelOrigin", "Ratio", "Texts", "package_versions", "write_manifest"]

_PACKAGES = (
    "torch",
    "transformers",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "polygraphy",
    "tensorrt-rtx-cu13",
    "tensorrt",
    "cuda-bindings",
    "numpy",
)


_Path = Annotated[str, AfterValidator(path_in_out)]


class ModelOrigin(Record):
    """The model that a run started from."""

    path: str
    sha256: str


class Ratio(Record):
    """Zeroed weights / weights of the covered linears: the ratio asked for, and the one that whole tiles reach."""

    asked: float
    reached: float


class EvalText(Record):
    """A held-out text. path: absolute, so that it is valid in any working directory; None for text that the model wrote."""

    name: str
    path: str | None


class Texts(Record):
    """Texts that a run read: those to learn the masks from, and those to evaluate on."""

    calib: TextRecord | None = None
    eval: EvalText | None = None


class Manifest(FileRecord):
    """manifest.json. files: sha256 by path in OUT; stages: the stages that ran, with the files that they wrote."""

    SCHEMA: ClassVar[int] = 1
    WHAT: ClassVar[str] = "a manifest"
    PLACE: ClassVar[str] = MANIFEST

    model: ModelOrigin
    ratio: Ratio
    method: str
    seed: int
    text: Texts = Field(default_factory=Texts)
    versions: dict[str, str]
    files: dict[_Path, str]
    stages: dict[str, StageRecord]

    def with_stage(self, name: str, stage: StageRecord) -> Self:
        """Returns the manifest with a stage that ran later, or again. Its files replace those that it had before."""
        before = self.stages[name].files if name in self.stages else {}
        files = {path: digest for path, digest in self.files.items() if path not in before} | stage.files
        stages = self.stages | {name: stage}
        return self.model_copy(update={"files": dict(sorted(files.items())), "stages": stages})

    def without_stage(self, name: str) -> Self:
        """Returns the manifest without a stage and its files."""
        gone = self.stages[name].files if name in self.stages else {}
        files = {path: digest for path, digest in self.files.items() if path not in gone}
        stages = {one: stage for one, stage in self.stages.items() if one != name}
        return self.model_copy(update={"files": files, "stages": stages})


def write_manifest(
    workspace: Workspace, seed: int, model: ModelOrigin, masks: MaskSet, evaluated: EvalText | None
) -> None:
    """Write manifest.json of a run. evaluated: the text that its models were evaluated on, if they were."""
    files = {name: digest for record in workspace.records.values() for name, digest in record.files.items()}
    files[RECIPE] = sha256_of(workspace.root / RECIPE)
    manifest = Manifest(
        model=model,
        ratio=Ratio(asked=masks.ratio_asked, reached=masks.ratio),
        method=masks.method,
        seed=seed,
        text=Texts(calib=masks.record.text, eval=evaluated),
        versions=package_versions(),
        files=dict(sorted(files.items())),
        stages=dict(workspace.records),
    )
    manifest.write(workspace.root / MANIFEST)


def package_versions() -> dict[str, str]:
    """Returns the versions of this package, of Python, and of every related package that is installed."""
    versions = {
        "patch-compile": importlib.metadata.version("patch-compile"),
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
