"""manifest.json: the inputs of a run, the versions that it ran with, and the sha256 of every file in OUT."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field

from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import TextRecord
from masklearn.model.hub import model_name
from patch_compile.artifacts.layout import MANIFEST, RECIPE, STATE
from patch_compile.artifacts.lock import LOCK
from patch_compile.artifacts.record import FileRecord, Record, Unit, shown
from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.artifacts.state import PathInOut, StageRecord

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


class ModelOrigin(Record):
    """The model that a run started from. path: absolute, or `org/name@commit` of a hub."""

    path: Annotated[str, shown("model", Unit.WORDS)]
    sha256: Annotated[str, shown("sha256", Unit.WORDS)]

    @property
    def name(self) -> str:
        """Name without the suffix of an ONNX file."""
        return model_name(self.path).removesuffix(".onnx")


class Ratio(Record):
    """Zeroed weights / weights of the covered linears: the requested ratio, and the ratio that whole tiles reach.

    asked: None if bytes or a speed was asked for.
    """

    asked: float | None
    reached: float


class EvalText(Record):
    """Text to evaluate on. path: absolute, so that it is valid in any working directory; None if the model wrote it."""

    name: str
    path: str | None


class Texts(Record):
    """Texts that a run read, to learn the masks from and to evaluate on."""

    calib: TextRecord | None = None
    eval: EvalText | None = None


class Manifest(FileRecord):
    """manifest.json.

    files: sha256 by path in OUT; sizes: bytes by path in OUT; stages: the stages that ran, with the files
    that they wrote; unfinished: files and folders that a stage has begun to write, by stage.
    """

    SCHEMA: ClassVar[int] = 1
    WHAT: ClassVar[str] = "a manifest"
    PLACE: ClassVar[str] = MANIFEST

    model: ModelOrigin
    ratio: Ratio
    method: str
    seed: Annotated[int, shown("seed")]
    text: Texts = Field(default_factory=Texts)
    versions: dict[str, str]
    files: dict[PathInOut, str]
    sizes: dict[PathInOut, int]
    stages: dict[str, StageRecord]
    unfinished: dict[str, tuple[PathInOut, ...]] = Field(default_factory=dict)

    @property
    def own_paths(self) -> frozenset[str]:
        """Returns the paths in OUT of files and folders that the build and later steps wrote or had begun to write."""
        written = (record.files for record in self.stages.values())
        return frozenset({MANIFEST, STATE, LOCK}).union(self.files, *written, *self.unfinished.values())

    def with_stage(self, name: str, stage: StageRecord, root: Path) -> Self:
        """Returns the manifest with a stage that ran later, or again. Its files, in `root`, replace its earlier files."""
        files = dict(sorted((self._files_without(name) | stage.files).items()))
        sizes = self.sizes | sizes_of(root, stage.files)
        changed = {
            "files": files,
            "sizes": {path: sizes[path] for path in files if path in sizes},
            "stages": self.stages | {name: stage},
            "unfinished": {other: paths for other, paths in self.unfinished.items() if other != name},
        }
        return self.model_copy(update=changed)

    def with_begun(self, name: str, paths: tuple[str, ...]) -> Self:
        """Returns the manifest without a stage, which begins to write these files and folders anew."""
        written = self.stages[name].files if name in self.stages else {}
        begun = {*paths, *self.unfinished.get(name, ()), *written}
        changed = {
            "files": self._files_without(name),
            "stages": {other: stage for other, stage in self.stages.items() if other != name},
            "unfinished": self.unfinished | {name: tuple(sorted(begun))},
        }
        return self.model_copy(update=changed)

    def _files_without(self, name: str) -> dict[str, str]:
        gone = self.stages[name].files if name in self.stages else {}
        return {path: digest for path, digest in self.files.items() if path not in gone}


def write_manifest(
    root: Path,
    stages: Mapping[str, StageRecord],
    seed: int,
    model: ModelOrigin,
    masks: MaskSet,
    evaluated: EvalText | None,
) -> None:
    """Write manifest.json of a run into the folder `root`. evaluated: the text that its models were evaluated on, if any."""
    files = {name: digest for record in stages.values() for name, digest in record.files.items()}
    files[RECIPE] = sha256_of(root / RECIPE)
    choice = masks.record.choice
    asked = masks.ratio_asked if choice is None or choice.unit == "ratio" else None
    manifest = Manifest(
        model=model,
        ratio=Ratio(asked=asked, reached=masks.ratio),
        method=masks.method,
        seed=seed,
        text=Texts(calib=masks.record.text, eval=evaluated),
        versions=package_versions(),
        files=dict(sorted(files.items())),
        sizes=sizes_of(root, sorted(files)),
        stages=dict(stages),
    )
    manifest.write(root / MANIFEST)


def sizes_of(root: Path, names: Iterable[str]) -> dict[str, int]:
    return {name: (root / name).stat().st_size for name in names}


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
