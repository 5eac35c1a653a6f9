"""Which format a source has, from what it holds."""

import zipfile
from pathlib import Path

from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.errors import PatchCompileError
from masklearn.importers.compressed_tensors import BITMASK
from masklearn.importers.npz import MaskArchive
from masklearn.importers.patch import META, SHAPE
from masklearn.importers.published import Format

__all__ = ["detect_format"]


def detect_format(source: Path) -> tuple[Format, str]:
    """The format and what shows it. PatchCompileError when it is none that can be imported."""
    if source.is_dir():
        masked = [name for name in Checkpoint.open(source).names() if name.endswith(BITMASK)]
        if masked:
            return Format.COMPRESSED_TENSORS, f"it holds {masked[0]}"
        return Format.CHECKPOINT, "a Hugging Face directory, whose zeros are the mask"
    if not source.is_file():
        raise PatchCompileError(
            f"No masks at {source}",
            "There is no such file or folder.",
            "Give a local mask file, or a pruned Hugging Face directory; nothing is downloaded.",
        )
    if not zipfile.is_zipfile(source):
        raise _unknown(source)
    names = MaskArchive(source).names
    shaped = next((name for name in names if name == META or name.endswith(SHAPE)), None)
    if shaped is not None:
        return Format.PATCH, f"an archive that holds {shaped}"
    return Format.MASKLLM, "an archive of bits without shapes"


def _unknown(source: Path) -> PatchCompileError:
    if source.suffix == ".safetensors":
        return PatchCompileError(
            f"{source} is a single safetensors file",
            "Weights are imported with the directory they lie in; a MaskSet needs no import.",
            "Give the Hugging Face directory, or use a MaskSet as it is: build --mask FILE.",
        )
    return PatchCompileError(
        f"{source} is no mask file that can be imported",
        "It is neither an .npz archive of masks nor a Hugging Face directory; pickled files are not read.",
        "Give mask.npz or mask_compressed.npz, or convert the pruned model with save_pretrained.",
    )
