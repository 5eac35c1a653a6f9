"""Writes the pruned checkpoint: the files of the source with new values and zeroed weights, in the same dense layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.checkpoint.folder import CONFIG, INDEX
from masklearn.checkpoint.orientation import to_stored
from masklearn.errors import PatchCompileError
from masklearn.json_text import read_json
from masklearn.masks.maskset import MaskSet
from masklearn.shard import restrict, write_shard

# Settings of quantisation that GPTQ and AWQ write beside config.json.
_OF_QUANTISATION = ("quantize_config.json", "quant_config.json")

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

    Tensors with new values (`Checkpoint.with_weights`) are written with these. A quantised checkpoint is written as the
    dense one that it stands for: its values, and nothing that speaks of quantisation. Sub-folders are copied if they hold
    no weights (chat templates) or are modules of a sentence-transformers model; exports to other formats are not copied.
    No file has more permissions than its source.

    progress: called with a tensor's name, the number of tensors so far and the number of all tensors.
    """
    out.mkdir(parents=True, exist_ok=True)
    left_out = _OF_QUANTISATION if checkpoint.quantised else ()
    for file in checkpoint.path.iterdir():
        if file.is_file() and not file.name.endswith(_OTHER_WEIGHTS) and file.name not in left_out:
            _copy(file, out / file.name)
    if checkpoint.quantised:
        _describe_dense(checkpoint, out)
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


def _describe_dense(checkpoint: Checkpoint, out: Path) -> None:
    """Write the config and the index of a quantised checkpoint's dense values over the copies."""
    (out / CONFIG).write_text(json.dumps(checkpoint.config, indent=2) + "\n")
    if (out / INDEX).is_file():
        weight_map = {name: file for file, shard in checkpoint.shards().items() for name in shard.tensors}
        index = {
            "metadata": {"total_size": checkpoint.bytes()},
            "weight_map": dict(sorted(weight_map.items())),
        }
        (out / INDEX).write_text(json.dumps(index, indent=2) + "\n")


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
