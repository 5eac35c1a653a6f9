"""The task that every build of a decoder runs gives the harness's answers, and stays silent for random models."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM

from masklearn.model.models import load_model
from masklearn.model.pretrained import load_tokenizer
from patch_compile.verification.last_words import LastWord, compare_words, last_words, right_words
from tests.conftest import WORDS, ModelMaker


@pytest.fixture
def smollm2_tokenizer(sample_model: Path) -> Any:
    return load_tokenizer(sample_model)


def test_right_words_are_the_harness_greedy_ones(make_model: ModelMaker) -> None:
    folder = make_model()
    model = load_model(folder)
    harness = HFLM(model, tokenizer=load_tokenizer(folder), batch_size=16)
    texts = [
        (f"the {a} sat {b}"[: 8 + 40 * (a == "dog")], f" {c}") for a, b, c in product(WORDS[:9], repeat=3)
    ]
    encoded = [harness._encode_pair(context, word) for context, word in texts]
    asked = [LastWord(before + word, len(before)) for before, word in encoded]
    expected = [greedy for _, greedy in harness._loglikelihood_tokens([(None, *one) for one in encoded])]

    def logits(ids: Any) -> Any:
        with torch.inference_mode():
            return np.asarray(model(torch.from_numpy(ids)).logits)

    assert right_words(logits, asked) == expected and {*expected} == {True, False}


def test_texts_are_split_before_their_last_word(smollm2_tokenizer: Any) -> None:
    found = last_words(smollm2_tokenizer, None)
    decode = smollm2_tokenizer.decode
    words = [decode(one.tokens[one.first :]) for one in found]
    assert len(found) == 32 and all(word.startswith(" ") and word[1:].isalpha() for word in words)
    assert (decode(found[1].tokens[: found[1].first])[-9:], words[1]) == ("to mend a", " clock")


def test_texts_beyond_the_reach_are_left_out(smollm2_tokenizer: Any) -> None:
    every, short = last_words(smollm2_tokenizer, None), last_words(smollm2_tokenizer, 20)
    assert 2 < len(short) < len(every) and short == [one for one in every if len(one.tokens) <= 20]


def test_unknown_words_are_not_asked(make_model: ModelMaker) -> None:
    assert last_words(load_tokenizer(make_model()), None) == []


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
