"""Copies what lies beside the weights in a model folder: configuration, tokenizer, chat templates, modules."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from masklearn.checkpoint.pretrained import TOKENIZER_FILES
from masklearn.errors import PatchCompileError
from masklearn.json_text import read_json
from masklearn.shard import restrict

__all__ = ["copy_beside", "copy_tokenizer"]

# Suffixes of weights. All other files of a model folder are small (configuration, tokenizer, chat template) and copied.
_WEIGHTS = (".bin", ".pt", ".pth", ".gguf", ".onnx", ".data", ".h5", ".msgpack", ".ot", ".safetensors")


def copy_beside(model: Path, out: Path) -> None:
    """Copy everything but weights into `out`, which is made if it is missing.

    Sub-folders are copied if they hold no weights or are modules of a sentence-transformers model. No file has more
    permissions than its source.
    """
    out.mkdir(parents=True, exist_ok=True)
    for file in model.iterdir():
        if file.is_file() and not file.name.endswith(_WEIGHTS):
            _copy(file, out / file.name)
    for folder in _folders(model):
        shutil.copytree(folder, out / folder.relative_to(model), copy_function=_copy, dirs_exist_ok=True)


def copy_tokenizer(model: Path, out: Path) -> bool:
    """Copy the files of a model folder's tokenizer into the folder `out`, with no more permissions than they have.

    Returns False if there are none.
    """
    files = [model / name for name in TOKENIZER_FILES if (model / name).is_file()]
    for file in files:
        _copy(file, out / file.name)
    return bool(files)


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
        if folder.name in modules or not any(file.name.endswith(_WEIGHTS) for file in folder.rglob("*")):
            yield folder
