"""`import_mask`: convert published masks to a MaskSet."""

from pathlib import Path
from typing import Annotated

from masklearn.base.option import Option
from patch_compile.api.results import ImportedMasks
from patch_compile.api.signature import Given, StrPath, takes
from patch_compile.artifacts.layout import MASKS
from patch_compile.options import Argument, ImportOptions


@takes(ImportOptions, extra="build")
def import_mask(
    given: Given,
    source: Annotated[StrPath, Argument(
        "An .npz of MaskLLM or PATCH, or a folder of Hugging Face or compressed-tensors.", "SOURCE")],
    out: Annotated[StrPath, Option(f"File to write ({MASKS}).", "FILE")],
    *,
    force: Annotated[bool, Option("Replace FILE if it exists.")] = False,
) -> ImportedMasks:  # fmt: skip
    """Import published masks for `build --mask`.

    SOURCE becomes FILE, for `build MODEL_DIR --mask FILE`.

    Raises UsageError for an invalid setting, and PatchCompileError for masks that cannot be imported.
    """
    from patch_compile.pipeline.import_masks import ImportRequest
    from patch_compile.pipeline.import_masks import import_mask as run

    settings = {name: value for name, value in given.items() if name != "force"}
    report = run(ImportRequest.parse(settings), force=force)
    return ImportedMasks(report, Path(report.path))
