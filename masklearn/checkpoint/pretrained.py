"""The loads of a model folder by transformers: config, tokenizer and model.

A folder may bring Python code of its own (`auto_map`). Unless it is told otherwise, transformers asks on stdin whether
to run that code. Here it never runs: transformers' own class is used where there is one, else the folder is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklearn.errors import PatchCompileError

if TYPE_CHECKING:
    import torch

__all__ = ["OWN_CODE", "build_model", "load_config", "load_pretrained", "load_tokenizer"]

OWN_CODE = (
    "Its own Python code (auto_map) would have to be run, and code that comes with a model is never run."
)


def load_config(model_dir: str | Path) -> Any:
    """The transformers config of a local model directory; PatchCompileError when transformers cannot read it."""
    from transformers import AutoConfig

    with _explained(_no_model(model_dir), _FETCH):
        return AutoConfig.from_pretrained(str(model_dir), local_files_only=True, trust_remote_code=False)


def load_tokenizer(model_dir: str | Path) -> Any:
    """The tokenizer of a local model directory; PatchCompileError when it has none."""
    from transformers import AutoTokenizer

    fix = "Put the tokenizer's files (tokenizer.json, tokenizer_config.json) beside the weights."
    with _explained(f"{model_dir} has no tokenizer that transformers can load", fix):
        return AutoTokenizer.from_pretrained(str(model_dir), local_files_only=True, trust_remote_code=False)


def load_pretrained(model_class: Any, model_dir: str | Path, dtype: "torch.dtype") -> Any:
    """The model of a local directory with its weights in `dtype`; PatchCompileError when transformers cannot load it.

    model_class: one of transformers' auto classes.
    """
    with _explained(_no_model(model_dir), _FETCH):
        return model_class.from_pretrained(
            str(model_dir), dtype=dtype, local_files_only=True, trust_remote_code=False
        )


def build_model(model_class: Any, config: Any, **settings: Any) -> Any:
    """The model of a config from `load_config`, without its weights; PatchCompileError when transformers cannot build it.

    model_class: one of transformers' auto classes; settings: passed on to its `from_config`.
    """
    with _explained(_no_model(config.name_or_path), _FETCH):
        return model_class.from_config(config, trust_remote_code=False, **settings)


_FETCH = "Fetch the checkpoint again, or update transformers."


def _no_model(model_dir: str | Path) -> str:
    return f"transformers cannot build the model of {Path(model_dir) / 'config.json'}"


@contextmanager
def _explained(what: str, fix: str) -> Iterator[None]:
    """Turns what transformers raises for a faulty folder into a PatchCompileError."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (
        StrictDataclassError, OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RecursionError
    ) as error:  # fmt: skip
        if "trust_remote_code" in str(error):  # what transformers says of code that it was not allowed to run
            fix = "Use a model of an architecture that transformers has itself, or save this one as such a model."
            raise PatchCompileError(what, OWN_CODE, fix) from error
        raise PatchCompileError(what, f"{type(error).__name__}: {error}", fix) from error
