"""Writes the pruned checkpoint: the files of the source with new values and zeroed weights, in the same dense layout."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.checkpoint.orientation import to_stored
from masklearn.errors import PatchCompileError
from masklearn.json_text import read_json
from masklearn.masks.maskset import MaskSet
from masklearn.shard import restrict, write_shard

__all__ = ["masked_weight", "write_pruned_checkpoint"]

# Suffixes of weights. All other files of a model folder are small (configuration, tokenizer, chat template) and copied.
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".gguf", ".onnx", ".data", ".h5", ".msgpack", ".ot", ".safetensors")


def masked_weight(weight: NDArray[Any], keep: NDArray[np.bool_]) -> NDArray[Any]:
    """Returns W∘M in the layout and type of W. Pruned weights are +0, also if they were negative."""
    return np.where(keep, weight, np.zeros((), weight.dtype))


def write_pruned_checkpoint(
    checkpoint: Checkpoint,
    masks: MaskSet,
    out: Path,
    progress: Callable[[str, int, int], object] | None = None,
) -> None:
    """Write the Hugging Face folder `out` with the same shards and tensor names. One tensor is in memory at a time.

    Tensors with new values (`Checkpoint.with_weights`) are written with these. Sub-folders are copied if they hold no
    weights (chat templates) or are modules of a sentence-transformers model; exports to other formats are not copied.
    No file has more permissions than its source.

    progress: called with a tensor's name, the number of tensors so far and the number of all tensors.
    """
    out.mkdir(parents=True, exist_ok=True)
    for file in checkpoint.path.iterdir():
        if file.is_file() and not file.name.endswith(_OTHER_WEIGHTS):
            _copy(file, out / file.name)
    for folder in _folders(checkpoint.path):
        target = out / folder.relative_to(checkpoint.path)
        shutil.copytree(folder, target, copy_function=_copy, dirs_exist_ok=True)
    total, done = len(list(checkpoint.names())), 0

    def tensor(name: str) -> NDArray[Any]:
        nonlocal done
        done += 1
        if progress:
            progress(name, done, total)
        weight = checkpoint.read(name)
        linear = name.removesuffix(".weight")
        if linear not in masks:
            return weight
        return masked_weight(weight, to_stored(checkpoint, name, masks[linear].keep()))

    for file_name, shard in checkpoint.shards().items():
        specs = {name: (entry.dtype, entry.shape) for name, entry in shard.tensors.items()}
        write_shard(out / file_name, specs, tensor, shard.metadata, like=shard.path)


def _copy(source: str | Path, target: str | Path) -> None:
    """Copy a file. Whoever may not read the source may not read the copy either."""
    Path(target).touch()
    restrict(Path(target), source)
    shutil.copyfile(source, target)


def _module_folders(listed: Path) -> set[str]:
    try:
        return {str(module["path"]) for module in read_json(listed)}
    except (KeyError, TypeError, ValueError) as error:
        raise PatchCompileError(
            f"{listed} lists no modules",
            f"{error}" if type(error) is ValueError else "It is a list of objects with a `path`.",
            "Fetch the model again.",
        ) from None


def _folders(model: Path) -> Iterator[Path]:
    """Yield the sub-folders to copy."""
    # A file of sentence-transformers with the path of each module, "" for the model itself.
    listed = model / "modules.json"
    modules = _module_folders(listed) if listed.is_file() else set()
    for folder in sorted(model.iterdir()):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        if folder.name in modules or not any(
            file.name.endswith(_OTHER_WEIGHTS) for file in folder.rglob("*")
        ):
            yield folder
