"""Reads config.json and the index of a model folder, and finds its shards."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from masklearn.base.errors import MaskLearnError
from masklearn.base.folder_links import check_link
from masklearn.base.json_text import json_type, read_json

__all__ = ["CONFIG", "INDEX", "read_config", "read_index", "single_file", "stated_dtype", "write_index"]

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_config(path: Path) -> dict[str, Any]:
    """Returns the object in a folder's config.json. Raises MaskLearnError if there is none."""
    if not path.is_dir():
        raise MaskLearnError(
            f"No model directory at {path}",
            "A local Hugging Face directory is needed; nothing is downloaded.",
            "Give the path of a directory with config.json and *.safetensors.",
        )
    file = path / CONFIG
    if not file.is_file():
        raise MaskLearnError(
            f"{path} has no config.json", "It is not a Hugging Face model.", "Give the directory it lies in."
        )
    if file.is_symlink():
        check_link(path, file)
    return _read_json(file)


def stated_dtype(config: Mapping[str, Any]) -> str | None:
    """Returns the safetensors code of the type that config.json gives to the model's weights, None if it gives none.

    It may stand in the config of the text part alone.
    """
    text = config.get("text_config")
    parts = (config, text if isinstance(text, dict) else {})
    named = (part.get(key) for part in parts for key in ("dtype", "torch_dtype"))
    return next((_DTYPES[name] for name in named if isinstance(name, str) and name in _DTYPES), None)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file, finite=False)
    except OSError as error:
        raise MaskLearnError(
            f"{file} cannot be read",
            error.strerror or str(error),
            "Check the file's permissions and its disk.",
        ) from error
    except ValueError as error:
        raise MaskLearnError(f"{file} is not JSON", str(error), "Fetch the file again.") from error
    if not isinstance(content, dict):
        raise MaskLearnError(
            f"{file} is not a JSON object", f"It is {json_type(content)}.", "Fetch the file again."
        )
    return content


def read_index(index: Path) -> dict[str, str]:
    """Returns the file of each tensor, by the index of a folder's shards. Raises MaskLearnError if it is not valid."""
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise MaskLearnError(f"{index} has no weight_map", "It names no shard.", "Fetch the file again.")
    for tensor, file in weight_map.items():
        if not _is_file_name(file):
            raise MaskLearnError(
                f"{index} places {tensor!r} in {file!r}",
                "A shard is named by a plain file name of the same folder; any other path could make a build read "
                "or overwrite files outside it.",
                "Fetch the checkpoint again from a source that you trust.",
            )
    _check_present(index, weight_map)
    return weight_map


def write_index(folder: Path, weight_map: Mapping[str, str], size: int) -> None:
    """Write the index of a folder's shards. weight_map: file by tensor; size: bytes of all tensors."""
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _is_file_name(value: object) -> bool:
    """Returns True for a printable name that, joined to a folder, stays in that folder."""
    if not isinstance(value, str) or value in ("", ".", ".."):
        return False
    return value.isprintable() and not set(value) & set("/\\")  # NUL is not printable


def _check_present(index: Path, weight_map: dict[str, str]) -> None:
    """Raises MaskLearnError if a shard is missing.

    Names are compared with the folder's listing, because the file system raises an error for a name that is too long.
    """
    present = {entry.name for entry in index.parent.iterdir() if entry.is_file()}
    for file in weight_map.values():
        if file not in present:
            raise MaskLearnError(
                f"The shard {index.parent / file} is missing",
                f"{INDEX} names it.",
                "Fetch the checkpoint again.",
            )


def single_file(path: Path) -> str:
    """Returns the name of the one shard of a folder without an index. Raises MaskLearnError if there is none."""
    if (path / _SINGLE).is_file():
        return _SINGLE
    pickled = sorted(file.name for pattern in _PICKLED for file in path.glob(pattern))
    if pickled:
        raise MaskLearnError(
            f"{path} has pickled weights only ({pickled[0]})",
            "A pickle runs code when it is read, so only safetensors are.",
            "Convert it: load it with transformers and call save_pretrained.",
        )
    raise MaskLearnError(
        f"{path} has no weights", f"Neither {_SINGLE} nor {INDEX} is there.", "Fetch the checkpoint again."
    )
