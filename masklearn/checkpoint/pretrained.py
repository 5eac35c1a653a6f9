"""Loads config, tokenizer and model of a folder with transformers, without running the folder's code.

A folder may contain Python code (`auto_map`), and transformers asks on stdin by default whether to run it. The functions
of this module never run it: they use transformers' own class if there is one, and refuse the folder otherwise.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklearn.errors import PatchCompileError
from masklearn.extras import is_installed

if TYPE_CHECKING:
    import torch

__all__ = ["OWN_CODE", "build_model", "load_config", "load_pretrained", "load_tokenizer"]

OWN_CODE = (
    "Its own Python code (auto_map) would have to be run, and code that comes with a model is never run."
)

if not is_installed("torch"):  # configs and tokenizers need none, and transformers would warn about it
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def load_config(model_dir: str | Path) -> Any:
    """Returns the transformers config of a local model directory. Raises PatchCompileError if transformers can't read it."""
    from transformers import AutoConfig

    with _explained(_no_model(model_dir), _FETCH):
        config = AutoConfig.from_pretrained(str(model_dir), local_files_only=True, trust_remote_code=False)
        if isinstance(
            config.get_text_config(), dict
        ):  # transformers keeps what a class does not know as it is
            raise TypeError(f"a config of the type {config.model_type!r} has no text_config")
        return config


def load_tokenizer(model_dir: str | Path) -> Any:
    """Returns the tokenizer of a local model directory. Raises PatchCompileError if it has none."""
    from transformers import AutoTokenizer

    fix = "Put the tokenizer's files (tokenizer.json, tokenizer_config.json) beside the weights."
    with _explained(f"{model_dir} has no tokenizer that transformers can load", fix):
        tokenizer = AutoTokenizer.from_pretrained(
            str(model_dir), local_files_only=True, trust_remote_code=False
        )
        tokenizer(_PROBE)  # some faulty settings are noticed no earlier
        return tokenizer


def load_pretrained(model_class: Any, model_dir: str | Path, dtype: "torch.dtype") -> Any:
    """Returns the model of a local directory with its weights in `dtype`.

    model_class: an auto class of transformers. Raises PatchCompileError if transformers can't load the model.
    """
    with _explained(_no_model(model_dir), _FETCH):
        return model_class.from_pretrained(
            str(model_dir), dtype=dtype, local_files_only=True, trust_remote_code=False
        )


def build_model(model_class: Any, config: Any, **settings: Any) -> Any:
    """Returns the model of a config from `load_config`, without the weights of the checkpoint.

    model_class: an auto class of transformers; settings: arguments of its `from_config`. Raises PatchCompileError if
    transformers can't build the model.
    """
    with _explained(_no_model(config.name_or_path), _FETCH):
        return model_class.from_config(config, trust_remote_code=False, **settings)


_PROBE = "a word, 12 and \u2603"
_PANIC = "PanicException"  # of the tokenizers library: no Exception, as the libraries in Rust raise it
_FETCH = "Fetch the checkpoint again, or update transformers."


def _no_model(model_dir: str | Path) -> str:
    return f"transformers cannot build the model of {Path(model_dir) / 'config.json'}"


@contextmanager
def _explained(what: str, fix: str) -> Iterator[None]:
    """Raise transformers' errors about a faulty folder as PatchCompileError.

    They are of all types, because transformers, torch and tokenizers check little of what they read. Memory that does not
    suffice is no fault of the folder.
    """
    try:
        yield
    except MemoryError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        if "trust_remote_code" in str(error):  # transformers was not allowed to run the folder's code
            fix = "Use a model of an architecture that transformers has itself, or save this one as such a model."
            raise PatchCompileError(what, OWN_CODE, fix) from error
        raise PatchCompileError(what, f"{type(error).__name__}: {error}", fix) from error
