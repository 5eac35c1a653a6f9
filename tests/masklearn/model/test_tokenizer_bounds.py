"""Tokenizers that would fill the memory, in a process without memory to spare: the library would end it."""

import json
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from masklearn.model.pretrained import load_tokenizer, token_ids
from masklearn.model.tokenizer_bounds import check_tokenizer
from tests.conftest import ModelMaker
from tests.refusals import refused

_MORE = 2 << 30  # bytes of address space


def replace(text: str, by: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": text}, "content": by}


def sequence(steps: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", steps: [*parts]}


_FIVE = [replace("t", "t" * 100)] * 5
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_TWICE = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2,
          "pair": [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"], "special_tokens": {}}  # fmt: skip
_ANYWHERE = {"type": "Replace", "pattern": {"Regex": "(?=t)"}, "content": "t"}


@pytest.fixture
def little_memory() -> Iterator[None]:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + _MORE, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def with_part(model: Path, **parts: Any) -> Path:
    file = model / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | parts))
    return model


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("normalizer", sequence("normalizers", *_FIVE)),
        ("normalizer", sequence("normalizers", *[sequence("normalizers", _ANYWHERE)] * 40)),
        ("normalizer", {"type": "Prepend", "prepend": "t" * 10**7}),
        ("normalizer", sequence("normalizers", *[_BYTES] * 20)),
        ("pre_tokenizer", sequence("pretokenizers", *[_BYTES] * 20)),
        ("post_processor", sequence("processors", *[_TWICE] * 30)),
        ("decoder", sequence("decoders", *_FIVE)),
    ],
    ids=["replace", "between characters", "prepend", "bytes", "bytes of bytes", "template", "decoder"],
)
@pytest.mark.usefixtures("little_memory")
def test_parts_that_fill_the_memory_are_refused(make_model: ModelMaker, part: str, content: Any) -> None:
    model = with_part(make_model(), **{part: content})
    with refused():
        load_tokenizer(model)


@pytest.mark.usefixtures("little_memory")
def test_texts_that_grow_far_are_refused(make_model: ModelMaker) -> None:
    tokenizer = load_tokenizer(with_part(make_model(), normalizer=replace("t", "t" * 4000)))
    assert token_ids(tokenizer, "a dog") == [6, 9]
    with refused():
        token_ids(tokenizer, "t" * 1_000_000)


def test_published_steps_are_taken(tmp_path: Path) -> None:
    """The steps of ALBERT, Llama 2, DeepSeek and RoBERTa, of which tokenizers of today are made."""
    regex = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    unicode = [{"type": name} for name in ("NFKD", "StripAccents", "Lowercase")]
    parts = {
        "normalizer": sequence(
            "normalizers",
            {"type": "Prepend", "prepend": "\u2581"},
            replace("``", '"'),
            *unicode,
            regex,
            regex,
        ),
        "pre_tokenizer": sequence("pretokenizers", *[{"type": "Split"}] * 3, _BYTES),
        "post_processor": sequence("processors", _BYTES, _TWICE | {"single": _TWICE["pair"]}),
        "decoder": sequence("decoders", replace("\u2581", " "), {"type": "ByteFallback"}, {"type": "Fuse"}),
    }
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(parts))
    check_tokenizer(file)
