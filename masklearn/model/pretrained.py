"""Loads config, tokenizer and model of a folder with transformers, without running the folder's code.

A folder may contain Python code (`auto_map`), and transformers asks on stdin by default whether to run it. The functions
of this module never run it: they use transformers' own class if it has a class for the model, else refuse the folder.
"""

import inspect
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklearn.base.errors import MaskLearnError
from masklearn.base.extras import is_installed
from masklearn.model.tokenizer_bounds import check_normalizer, check_text, check_tokenizer

if TYPE_CHECKING:
    import torch

OWN_CODE = (
    "Its own Python code (auto_map) would have to be run, and code that comes with a model is never run."
)

ADAPTER = "adapter_config.json"

if not is_installed("torch"):  # configs and tokenizers need none, and transformers would warn about it
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def load_config(model_dir: str | Path) -> Any:
    """Returns the transformers config of a local model directory, without its settings of quantisation: `Checkpoint` reads
    quantised weights. Raises MaskLearnError if transformers can't read it."""
    from transformers import AutoConfig

    with _explained(_no_model(model_dir), _FETCH):
        config = AutoConfig.from_pretrained(str(model_dir), local_files_only=True, trust_remote_code=False)
        # transformers keeps settings that a class does not know as they are.
        if isinstance(config.get_text_config(), dict):
            raise TypeError(f"a config of the type {config.model_type!r} has no text_config")
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        return config


def load_tokenizer(model_dir: str | Path) -> Any:
    """Returns the tokenizer of a local model directory. Raises MaskLearnError if it has none."""
    from transformers import AutoTokenizer

    for file in (Path(model_dir) / name for name in TOKENIZER_FILES):
        if file.is_file() and (size := file.stat().st_size) > _MOST_BYTES:
            raise MaskLearnError(
                f"{file} has {size >> 20} MiB",
                f"At most {_MOST_BYTES >> 20} MiB of a tokenizer's file are read.",
                "Fetch the model again from a source that you trust.",
            )
    fix = "Put the tokenizer's files (tokenizer.json, tokenizer_config.json) next to the weights."
    if not Path(model_dir).is_dir():  # transformers would look for a model of that name
        raise MaskLearnError(f"{model_dir} has no tokenizer", "There is no such folder.", fix)
    with _explained(f"{model_dir} has no tokenizer that transformers can load", fix):
        if (file := Path(model_dir) / "tokenizer.json").is_file():
            check_tokenizer(file)
        tokenizer = AutoTokenizer.from_pretrained(
            str(model_dir), local_files_only=True, trust_remote_code=False
        )
        check_normalizer(model_dir, tokenizer)
        tokenizer(_PROBE)  # some faulty settings are noticed no earlier
        return tokenizer


def token_ids(tokenizer: Any, text: str, **settings: Any) -> list[int]:
    """Returns the token ids of a text. settings: arguments of the tokenizer.

    Raises MaskLearnError if the tokenizer makes the text far longer, or fails. Raises TypeError for half a surrogate pair.
    """
    try:
        check_text(tokenizer, text)
        return list(tokenizer(text, **settings)["input_ids"])
    except BaseException as error:
        if type(error).__name__ != _PANIC:
            raise
        raise MaskLearnError(
            "The tokenizer fails on the text",
            str(error),
            "Fetch the model again from a source that you trust.",
        ) from error


def special_ends(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Returns the token ids that a tokenizer puts before and after a text, such as `<s>`, or `[CLS]` and `[SEP]`."""
    whole, text = (token_ids(tokenizer, _PROBE, add_special_tokens=added) for added in (True, False))
    for i in range(len(whole) - len(text) + 1):
        if whole[i : i + len(text)] == text:
            return whole[:i], whole[i + len(text) :]
    return [], []


def load_pretrained(model_class: Any, model_dir: str | Path, dtype: "torch.dtype") -> Any:
    """Returns the model of a local directory with its weights in `dtype`.

    model_class: an auto class of transformers. Raises MaskLearnError if transformers can't load the model, or would
    load another model.
    """
    if (adapter := Path(model_dir) / ADAPTER).is_file():
        raise MaskLearnError(
            f"{adapter} lies next to the model's weights",
            "With the package peft, transformers loads the model that it names in place of these weights.",
            f"Move the file away if the weights are whole. {how_to_merge(Path(model_dir))}",
        )
    with _explained(_no_model(model_dir), _FETCH):
        return model_class.from_pretrained(
            str(model_dir), dtype=dtype, local_files_only=True, trust_remote_code=False
        )


def how_to_merge(adapter: Path) -> str:
    """Returns how to make a model of a folder that holds an adapter of peft, such as a LoRA."""
    merged = f"{adapter.absolute().name}-merged"
    tokenizer = (
        _literal(adapter) if any((adapter / name).is_file() for name in TOKENIZER_FILES) else "m.name_or_path"
    )
    code = (
        "import peft, transformers; "
        f"m = peft.AutoPeftModelForCausalLM.from_pretrained({_literal(adapter)}).merge_and_unload(); "
        f"m.save_pretrained({_literal(merged)}); "
        f"transformers.AutoTokenizer.from_pretrained({tokenizer}).save_pretrained({_literal(merged)})"
    )
    return f"Merge it into its model, and use {merged}: `pip install peft`, `{shlex.join(['python', '-c', code])}`."


def _literal(path: Path | str) -> str:
    """Returns a Python string in double quotes, which a shell takes in single quotes as it is."""
    return json.dumps(str(path), ensure_ascii=False)


def load_with(model_class: Any, model_dir: str | Path, tensors: dict[str, "torch.Tensor"], dtype: Any) -> Any:
    """Returns the model of a local directory's config with these tensors, in `dtype`; its own weights are not read.

    model_class: the class of the model itself, no auto class; tensors: by checkpoint name. Raises MaskLearnError if
    transformers can't load the model.
    """
    config = load_config(model_dir)
    with _explained(_no_model(model_dir), _FETCH):
        return model_class.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
        )


def build_model(model_class: Any, config: Any, **settings: Any) -> Any:
    """Returns the model of a config from `load_config`, without the weights of the checkpoint.

    model_class: an auto class of transformers; settings: arguments of its `from_config`. Raises MaskLearnError if
    transformers can't build the model.
    """
    with _explained(_no_model(config.name_or_path), _FETCH):
        return model_class.from_config(config, trust_remote_code=False, **settings)


def cache_argument(model: Any) -> str:
    """Returns the name of the KV cache's forward argument: transformers 5.2x renamed `past_key_values` to `cache`."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


# The names that transformers' tokenizers give their files, and `tokenizer.model.v3` and tekken.json of mistral-common.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "spiece.model", "sentencepiece.model", "sentencepiece.bpe.model", "spm.model", "spm_char.model", "source.spm",
    "target.spm", "vocab.bpe", "bpe.codes", "encoder.json", "dict.txt", "emoji.json", "normalizer.json", "byte_maps.json",
    "entity_vocab.json", "target_vocab.json", "vocab-src.json", "vocab-tgt.json", "word_shape.json",
    "word_pronunciation.json", "prophetnet.tokenizer", "tokenizer.model.v3", "tekken.json", "qwen.tiktoken",
    "tokenizer.tiktoken", "tiktoken.model",
)  # fmt: skip
_MOST_BYTES = 256 << 20  # tokenizer.json of a vocabulary of 256 k tokens has about 35 MB
_PROBE = "a word, 12 and \u2603"
# Libraries in Rust, such as tokenizers, raise it. It derives only from BaseException.
_PANIC = "PanicException"
_FETCH = "Fetch the checkpoint again, or update transformers."


def _no_model(model_dir: str | Path) -> str:
    return f"transformers cannot build the model of {Path(model_dir) / 'config.json'}"


@contextmanager
def _explained(what: str, fix: str) -> Iterator[None]:
    """Raise transformers' errors about a faulty folder as MaskLearnError.

    They are of all types, because transformers, torch and tokenizers check little of what they read. Too little memory is
    not the folder's fault, and is not explained.
    """
    try:
        yield
    except (MemoryError, MaskLearnError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        if "trust_remote_code" in str(error):  # transformers was not allowed to run the folder's code
            fix = "Use a model of an architecture that transformers has itself, or save this model as such a model."
            raise MaskLearnError(what, OWN_CODE, fix) from error
        raise MaskLearnError(what, f"{type(error).__name__}: {error}", fix) from error
