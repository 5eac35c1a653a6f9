"""`import_mask`: convert published masks to a MaskSet."""

from collections.abc import Sequence

from masklearn.base.extras import require_extra
from patch_compile.api.given import Given, StrPath, takes_given
from patch_compile.api.results import ImportedMasks

__all__ = ["import_mask"]


@takes_given
def import_mask(
    given: Given,
    source: StrPath,
    out: StrPath,
    *,
    model: StrPath,
    format: str = "auto",
    tile: tuple[int, int] | str | None = None,
    kinds: str = "2:4",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    force: bool = False,
) -> ImportedMasks:
    """Import masks for the linears of `model` and write them to the file `out`, for `build(model, mask=out)`.

    source: an .npz of MaskLLM or PATCH, a pruned Hugging Face folder, or a folder of compressed-tensors. format: "auto"
    detects it from the content. tile: (rows, columns) or "128x128"; None takes the largest tile that loses no sparsity.
    kinds: kinds of tiles to look for, "2:4", "auto" or names; a tile gets the tightest one that holds it. include,
    exclude: patterns of linears. force: replace `out`.

    Raises UsageError for an invalid setting, and PatchCompileError for masks that cannot be imported.
    """
    require_extra("build", "`patch-compile import-mask`")
    from patch_compile.pipeline.import_masks import ImportRequest
    from patch_compile.pipeline.import_masks import import_mask as run

    settings = {name: value for name, value in given.items() if name != "force"}
    return ImportedMasks(run(ImportRequest.parse(settings), force=force))
