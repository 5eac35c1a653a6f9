"""Models with Python code of their own, which leaves a mark when it runs."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_CODE = """
from pathlib import Path
Path({mark!r}).write_text("run")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

class OwnConfig(LlamaConfig): ...
class OwnModel(LlamaForCausalLM): ...
class OwnTokenizer(PreTrainedTokenizerFast): ...
"""


def claim_config(model: Path, **settings: Any) -> None:
    """Make the folder's config name its own classes for config and model."""
    classes = {"AutoConfig": "own.OwnConfig"}
    classes |= dict.fromkeys(("AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM"), "own.OwnModel")
    _change(model / "config.json", auto_map=classes, **settings)
    _write_code(model)


def claim_tokenizer(model: Path) -> None:
    """Make the folder's tokenizer a class that transformers does not have."""
    _change(
        model / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]},
    )
    _write_code(model)


@contextmanager
def nothing_runs(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail when the folder's code runs, or when stdin is read, in which every line says yes."""
    stdin = io.StringIO("y\n" * 99)
    monkeypatch.setattr("sys.stdin", stdin)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(model.parent / "modules"))
    yield
    assert not _mark(model).exists(), "code of the model was run"
    assert stdin.tell() == 0, "stdin was read"


def _mark(model: Path) -> Path:
    return model.parent / f"{model.name}.mark"


def _write_code(model: Path) -> None:
    code = _CODE.format(mark=str(_mark(model).absolute()))
    (model / "own.py").write_text(code)
    (model / "custom_generate").mkdir(exist_ok=True)
    (model / "custom_generate" / "generate.py").write_text(code + "\ndef generate(*_, **__): ...\n")


def _change(file: Path, **settings: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
