"""The task that every build of a decoder runs gives the harness's answers, and stays silent for random models."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from masklearn.model.pretrained import load_tokenizer
from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.report import DecoderReport, read_report
from patch_compile.verification.last_words import LastWord, compare_words, last_words, right_words
from patch_compile.verification.tasks.loading import load_tasks
from patch_compile.verification.tasks.models import open_model
from patch_compile.verification.tasks.run import offline, quiet_harness
from tests.conftest import WORDS


@pytest.fixture(scope="module")
def onnx(tiny_out: OutFolder) -> Any:
    with open_model(tiny_out, "pruned", "onnx", 0, lambda *_: None) as model:
        yield model


@pytest.fixture
def smollm2_tokenizer(sample_model: Path) -> Any:
    return load_tokenizer(sample_model)


def test_right_words_are_the_harness_greedy_ones(onnx: Any) -> None:
    texts = [
        (f"the {a} sat {b}"[: 8 + 40 * (a == "dog")], f" {c}") for a, b, c in product(WORDS[:9], repeat=3)
    ]
    encoded = [onnx._encode_pair(context, word) for context, word in texts]
    asked = [LastWord(before + word, len(before)) for before, word in encoded]
    expected = [greedy for _, greedy in onnx._loglikelihood_tokens([(None, *one) for one in encoded])]
    assert right_words(onnx._logits, asked) == expected and {*expected} == {True, False}


def test_texts_are_the_first_of_the_harness_task(smollm2_tokenizer: Any) -> None:
    with quiet_harness(), offline():
        task = load_tasks(["builtin-continuation"], None)["tasks"]["builtin-continuation"]
    documents = list(task.eval_docs)[:32]
    pairs = [(task.doc_to_text(one), task.doc_to_target(one)) for one in documents]
    found = last_words(smollm2_tokenizer, None)
    told = [
        (smollm2_tokenizer.decode(one.tokens[: one.first]), smollm2_tokenizer.decode(one.tokens[one.first :]))
        for one in found
    ]
    assert told == pairs


def test_texts_beyond_the_reach_are_left_out(smollm2_tokenizer: Any) -> None:
    every, short = last_words(smollm2_tokenizer, None), last_words(smollm2_tokenizer, 20)
    assert 2 < len(short) < len(every) and short == [one for one in every if len(one.tokens) <= 20]


def test_unknown_words_are_not_asked(tiny_out: OutFolder) -> None:
    assert last_words(load_tokenizer(tiny_out.path / "model"), None) == []
    report = read_report(tiny_out.path)
    assert isinstance(report, DecoderReport) and report.last_words is None
    assert json.loads((tiny_out.path / "report.json").read_text())["last_words"] is None


def test_the_error_is_of_paired_texts() -> None:
    dense, pruned = [True] * 24 + [False] * 8, [True] * 20 + [False] * 12
    found = compare_words(dense, pruned)
    assert found is not None
    assert (found.texts, found.dense, found.pruned) == (32, 0.75, 0.625)
    assert found.error == pytest.approx((0.125 * 0.875 / 31) ** 0.5)


@pytest.mark.parametrize("right", [0, 1, 3])
def test_random_models_get_no_score(right: int) -> None:
    dense = [True] * right + [False] * (32 - right)
    assert compare_words(dense, dense) is None
    assert compare_words([True] * 5 + dense[5:], dense) is not None
