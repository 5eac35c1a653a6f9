"""Turning tokens into text, with the sample model's byte-level tokenizer."""

import random
from pathlib import Path
from typing import Any

import pytest

from masklearn.model.pretrained import load_tokenizer
from patch_compile.runtime.continuation import TextStream
from tests.work import at_most_calls

pytestmark = pytest.mark.model
TEXTS = ["Héllo 😀 wörld, naïve", " leading space", "zwei\n\nZeilen", "日本語のテキスト"]


@pytest.fixture
def tokenizer(sample_model: Path) -> Any:
    return load_tokenizer(sample_model)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_make_the_text(tokenizer: Any, text: str) -> None:
    """A piece never ends inside a character."""
    prompt, ids = tokenizer("Say: ").input_ids, tokenizer(text).input_ids
    stream = TextStream(tokenizer, prompt)
    pieces = [*(stream.add(token) for token in ids), stream.finish()]
    assert "".join(pieces) == text
    assert "�" not in "".join(pieces)
    assert len([piece for piece in pieces if piece]) > 1


def test_the_first_whole_stop_wins_whatever_the_pieces(tokenizer: Any) -> None:
    rng = random.Random(0)
    for _ in range(50):
        text = "".join(rng.choice("ab ") for _ in range(30))
        stops = ["".join(rng.choice("ab") for _ in range(rng.randint(1, 3))) for _ in range(2)]
        stream, said = TextStream(tokenizer, [1], stops), ""
        for token in tokenizer(text).input_ids:
            said += stream.add(token)
            if stream.ended:
                break
        said += stream.finish()
        ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
        assert said == (text[: min(ends)[1]] if ends else text)


def test_a_long_stop_string_takes_little_work(tokenizer: Any) -> None:
    """Only as much of the stop string is compared as the text may contain."""
    stream = TextStream(tokenizer, [1], ["Hello " * 100_000])
    tokens = tokenizer("Hello Hello world " * 50).input_ids
    with at_most_calls(1000 * len(tokens)):
        pieces = [stream.add(token) for token in tokens]
    assert "".join(pieces) + stream.finish() == "Hello Hello world " * 50
