"""Reads config.json, the index and the card of a model folder, finds its shards, and lists the files that travel with them.

A card is README.md. It begins with YAML between two lines of three dashes, by which hubs sort models
("Model Cards", Hugging Face Hub documentation). Anybody may have written it: parts that are not as documented are left out.
"""

import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from masklearn.base.durable import write_whole
from masklearn.base.errors import MaskLearnError, reading
from masklearn.base.safe_read import check_link, json_object, read_json, require_file
from masklearn.base.shard import restrict
from masklearn.model.pretrained import ADAPTER, TOKENIZER_FILES, how_to_merge
from masklearn.quant.grid import StaticScales

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
            "There is no such folder, and it is no hub id, OWNER/NAME.",
            "Give a directory with config.json and *.safetensors. Commands take hub ids too, such as Qwen/Qwen2.5-7B.",
        )
    file = path / CONFIG
    if not file.is_file() and (path / ADAPTER).is_file():
        raise MaskLearnError(
            f"{path} is an adapter (LoRA), not a model",
            f"It has {ADAPTER} and no {CONFIG}: it holds changes to the weights of another model.",
            how_to_merge(path),
        )
    if not file.is_file():
        raise MaskLearnError(
            f"{path} has no config.json",
            "It is not the directory of a Hugging Face model.",
            "Give the directory that holds config.json.",
        )
    if file.is_symlink():
        check_link(path, file)
    return read_json_object(file)


def stated_dtype(config: Mapping[str, Any]) -> str | None:
    """Returns the safetensors code of the type that config.json gives to the model's weights, None if it gives none.

    It may stand only in the config of the text part.
    """
    text = config.get("text_config")
    parts = (config, text if isinstance(text, dict) else {})
    named = (part.get(key) for part in parts for key in ("dtype", "torch_dtype"))
    return next((_DTYPES[name] for name in named if isinstance(name, str) and name in _DTYPES), None)


ROUNDED_INPUTS = "rounded_inputs"
"""Setting of config.json: which linears round their inputs to int8, in the words of compressed-tensors, and `static`: the
scales of the linears that have one scale for all tokens."""
_AS_READ = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
RoundedInputs = Mapping[str, StaticScales | None]
"""Linears that round their inputs to int8: with static scales, or None for a scale for each token."""


def rounded_inputs_setting(linears: RoundedInputs) -> dict[str, Any]:
    """Returns the value of the setting for linears of type w8a8."""
    static = {
        name: scales.model_dump(exclude_none=True) for name, scales in sorted(linears.items()) if scales
    }
    return {**_AS_READ, "targets": sorted(linears), **({"static": static} if static else {})}


def stated_rounded_inputs(path: Path, config: Mapping[str, Any]) -> RoundedInputs:
    """Returns the linears that the setting names. Raises MaskLearnError for a value that no pruned checkpoint has."""
    about = config.get(ROUNDED_INPUTS)
    if about is None:
        return {}
    try:
        static = {name: StaticScales.model_validate(of) for name, of in about.get("static", {}).items()}
        linears = {name: static.get(name) for name in about["targets"]}
        named = all(isinstance(name, str) for name in linears)
        if linears and named and about == rounded_inputs_setting(linears):
            return linears
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise MaskLearnError(
        f"{ROUNDED_INPUTS} in {path / CONFIG} is not valid",
        "It names the linears of type w8a8, whose inputs have 8 bits and a scale for each token or for all.",
        "Learn the checkpoint again, or restore the file.",
    )


def read_json_object(file: Path) -> dict[str, Any]:
    """Returns the content of a JSON file of a model. Raises MaskLearnError for anything but an object."""
    with reading(file):
        return json_object(read_json(file, finite=False))


def read_index(index: Path) -> list[str]:
    """Returns the names of the shards in a folder's index, sorted. Raises MaskLearnError if it is not valid."""
    weight_map = read_json_object(index).get("weight_map")
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
    return sorted({*weight_map.values()})


def write_index(folder: Path, weight_map: Mapping[str, str], size: int) -> None:
    """Write the index of a folder's shards. weight_map: file by tensor; size: bytes of all tensors."""
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    write_whole(folder / INDEX, json.dumps(index, indent=2) + "\n")


def _is_file_name(value: object) -> bool:
    if not isinstance(value, str) or value in ("", ".", ".."):
        return False
    return value.isprintable() and not set(value) & set("/\\")  # NUL is not printable


def single_file(path: Path) -> str:
    """Returns the name of the only shard of a folder without an index. Raises MaskLearnError if the folder has no shard."""
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


# What travels with a model's weights: the files that other programs read with it, by the names that transformers and
# sentence-transformers give them. A build is passed on, and the folder may hold anything else of its user, so all other
# files stay where they are.
_CONFIGURATION = (
    CONFIG, INDEX, "generation_config.json", "preprocessor_config.json", "video_preprocessor_config.json",
    "processor_config.json", "audio_tokenizer_config.json",
)  # fmt: skip
_SENTENCE_TRANSFORMERS = ("modules.json", "config_sentence_transformers.json", "sentence_*_config.json")
_TEMPLATES = ("*.jinja", "chat_template.json")
TRAVELS = (*_CONFIGURATION, *_SENTENCE_TRANSFORMERS, *TOKENIZER_FILES, *_TEMPLATES, "README.md")
_TERMS = re.compile(
    r"(licen[cs]e|notice|copying|copyright|(acceptable_)?use_policy)([-_](?!key)\w+)?(\.(txt|md|rst|pdf))?",
    re.I,
)
# More that travels in the folder of a module, such as a dense layer or a head.
_OF_MODULES = (*TRAVELS, "*_config.json", _SINGLE, "pytorch_model.bin")
_MODULE = re.compile(r"\d+_[A-Z]\w*")  # sentence-transformers' own names of these folders: 1_Pooling
_MORE_TEMPLATES = "additional_chat_templates"
_WEIGHTS = (".bin", ".pt", ".pth", ".gguf", ".onnx", ".data", ".h5", ".msgpack", ".ot", ".safetensors")
_NAMED = 5  # files that a line names


def files_beside(model: Path) -> dict[str, Path]:
    """Returns the files of a model folder that travel with its weights, by their paths in the folder.

    These are configuration, tokenizer, templates, licence, card, and the folders of a sentence-transformers model's modules.
    """
    listed = [file for file in model.iterdir() if _travels(file.name, TRAVELS)]
    for folder in _folders(model):
        names = _TEMPLATES if folder.name == _MORE_TEMPLATES else _OF_MODULES
        listed += [file for file in _below(folder) if _travels(file.name, names)]
    return {str(file.relative_to(model)): file for file in sorted(listed) if file.is_file()}


def left_out(model: Path) -> str:
    """Returns a line about the files and folders of a model folder that do not travel; empty if there are none.

    It names neither weights nor hidden files, such as those that git and hubs put there.
    """
    travelling = {name.partition("/")[0] for name in files_beside(model)}
    names = sorted(
        f"{path.name}/" if path.is_dir() else path.name
        for path in model.iterdir()
        if path.name not in travelling and not path.name.startswith(".") and not path.name.endswith(_WEIGHTS)
    )
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"not copied with the model: {', '.join(names[:_NAMED])}{more}"


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


def _travels(name: str, patterns: Collection[str]) -> bool:
    allowed = _TERMS.fullmatch(name) or any(fnmatchcase(name, pattern) for pattern in patterns)
    return bool(allowed) and not name.startswith(".")


def _folders(model: Path) -> Iterator[Path]:
    """Yield the sub-folders that may hold files that travel."""
    # A file of sentence-transformers with the path of each module, "" for the model itself.
    listed = model / "modules.json"
    names = {_MORE_TEMPLATES}
    if listed.is_file():
        with reading(listed):
            names |= {str(module["path"]) for module in read_json(listed)}
    for folder in sorted(model.iterdir()):
        known = folder.name in names or _MODULE.fullmatch(folder.name)
        if known and folder.is_dir() and not folder.name.startswith("."):
            yield folder


def _below(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and in its sub-folders that are not hidden: `check_links` looks into no others."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in files)


CARD = "README.md"
_MOST_BYTES = 1 << 16  # cards of models with hundreds of evaluations have some 20,000 bytes of YAML
_METADATA = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_WORD = re.compile(r"[\w.+-]{1,100}")
_LINK = re.compile(r"https?://[!-~]{1,500}|[\w./-]{1,200}")
_PART = r"[A-Za-z0-9][\w.-]{0,95}"
_REPOSITORY = re.compile(f"{_PART}/{_PART}", re.ASCII)


@dataclass(frozen=True)
class CardFacts:
    """Licence and languages that a card gives. A field is empty if the card does not give it.

    licence: an identifier such as `apache-2.0`; `other` has a name and a link.
    """

    licence: str = ""
    licence_name: str = ""
    licence_link: str = ""
    languages: tuple[str, ...] = ()


def read_card(model: Path) -> CardFacts:
    """Returns the facts in the card of a model folder; no facts if it has no card, or the card is not as documented."""
    metadata = _metadata(model / CARD)
    stated = metadata.get("language")
    languages = stated if isinstance(stated, list) else [stated]
    return CardFacts(
        _text(metadata.get("license"), _WORD),
        _text(metadata.get("license_name"), _WORD),
        _text(metadata.get("license_link"), _LINK),
        tuple(filter(None, (_text(language, _WORD) for language in languages[:200]))),
    )


def hub_name(model: Path, config: dict[str, Any]) -> str:
    """Returns the name on a hub, `owner/model`, of a model folder that lies in the hub's cache or whose config.json names
    it; empty if neither tells. model: also `owner/model@commit`."""
    if not model.is_absolute() and (name := _text(str(model).partition("@")[0], _REPOSITORY)):
        return name
    for folder in (model, *model.parents):
        if folder.name.startswith("models--"):
            return _text(folder.name.removeprefix("models--").replace("--", "/", 1), _REPOSITORY)
    return _text(config.get("_name_or_path"), _REPOSITORY)


def _metadata(card: Path) -> dict[str, Any]:
    try:
        require_file(card)
        with card.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return {}
    if (match := _METADATA.match(text)) is None:
        return {}
    try:
        metadata = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _text(value: object, allowed: re.Pattern[str]) -> str:
    return value if isinstance(value, str) and allowed.fullmatch(value) else ""
