"""`export`: write the pruned checkpoint of a build in a format that other programs read."""

from pathlib import Path
from typing import Literal

from masklearn.extras import require_extra
from patch_compile.api.given import StrPath
from patch_compile.api.results import Exported

__all__ = ["export"]


def export(path: StrPath, *, format: Literal["compressed-tensors"] = "compressed-tensors") -> Exported:
    """Write OUT/model with packed integers to the folder OUT/compressed-tensors, which transformers reads.

    path: OUT of `build` or `learn`, with int8 or int4 weights. format: pack-quantized of compressed-tensors. Pruned weights
    are integers 0 in it, because the format has no sparse form. An earlier export is replaced. Every weight is read back and
    compared with OUT/model.

    Raises PatchCompileError if OUT has no quantised linears or was changed, and for a model that the format does not hold.
    """
    require_extra("build", "`patch-compile export`")
    from patch_compile.build.export import export_checkpoint

    return Exported(export_checkpoint(Path(path), format))
