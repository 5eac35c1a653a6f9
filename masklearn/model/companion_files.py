"""Copies what lies beside the weights in a model folder: configuration, tokenizer, chat templates, modules."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from masklearn.base.errors import MaskLearnError
from masklearn.base.json_text import read_json
from masklearn.base.shard import restrict
from masklearn.model.pretrained import TOKENIZER_FILES

__all__ = ["copy_beside", "copy_tokenizer", "files_beside"]

# Suffixes of weights. All other files of a model folder are small (configuration, tokenizer, chat template) and copied.
_WEIGHTS = (".bin", ".pt", ".pth", ".gguf", ".onnx", ".data", ".h5", ".msgpack", ".ot", ".safetensors")


def files_beside(model: Path) -> dict[str, Path]:
    """Returns the files of a model folder that travel with its weights, by their paths in the folder.

    These are all files but weights. Sub-folders count if they hold no weights or are modules of a sentence-transformers
    model; hidden ones don't.
    """
    listed = [file for file in model.iterdir() if not file.name.endswith(_WEIGHTS)]
    listed += [file for folder in _folders(model) for file in _below(folder)]
    return {str(file.relative_to(model)): file for file in sorted(listed) if file.is_file()}


def copy_beside(model: Path, out: Path) -> None:
    """Copy `files_beside` into `out`, which is made if it is missing. No file has more permissions than its source."""
    out.mkdir(parents=True, exist_ok=True)
    for name, file in files_beside(model).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        _copy(file, out / name)


def copy_tokenizer(model: Path, out: Path) -> bool:
    """Copy the files of a model folder's tokenizer into the folder `out`, with no more permissions than they have.

    Returns False if there are none.
    """
    files = [model / name for name in TOKENIZER_FILES if (model / name).is_file()]
    for file in files:
        _copy(file, out / file.name)
    return bool(files)


def _copy(source: Path, target: Path) -> None:
    """Copy a file. Whoever may not read the source may not read the copy either."""
    target.touch()
    restrict(target, source)
    shutil.copyfile(source, target)


def _module_folders(listed: Path) -> set[str]:
    try:
        return {str(module["path"]) for module in read_json(listed)}
    except (KeyError, TypeError, ValueError) as error:
        raise MaskLearnError(
            f"{listed} lists no modules",
            f"{error}" if type(error) is ValueError else "It is a list of objects with a `path`.",
            "Fetch the model again.",
        ) from None


def _folders(model: Path) -> Iterator[Path]:
    """Yield the sub-folders whose files travel."""
    # A file of sentence-transformers with the path of each module, "" for the model itself.
    listed = model / "modules.json"
    modules = _module_folders(listed) if listed.is_file() else set()
    for folder in sorted(model.iterdir()):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        if folder.name in modules or not any(file.name.endswith(_WEIGHTS) for file in folder.rglob("*")):
            yield folder


def _below(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and in its sub-folders that are not hidden: `check_links` looks into no others."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in files)
