"""Sampling: the choice of the next token."""

from typing import Any

import numpy as np
import pytest

from patch_compile.runtime.sampling import Sampler, Sampling
from tests.refusals import refused

LOGITS = np.log(np.array([[0.1, 0.4, 0.2, 0.3], [0.7, 0.1, 0.1, 0.1]], np.float32))


def draws(sampling: Sampling, count: int = 2000, logits: np.ndarray = LOGITS) -> np.ndarray:
    """Draw tokens `[count, rows]`."""
    sampler = Sampler(sampling, [[0]] * len(logits))
    return np.stack([sampler.choose(logits) for _ in range(count)])


def shares(tokens: np.ndarray, size: int = 4) -> np.ndarray:
    return np.bincount(tokens, minlength=size) / len(tokens)


def test_without_temperature_the_most_likely() -> None:
    assert draws(Sampling(), 3).tolist() == [[1, 0]] * 3


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_follow_the_probabilities(temperature: float) -> None:
    tokens = draws(Sampling(temperature=temperature, seed=0))
    for row, logits in enumerate(LOGITS):
        expected = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
        assert np.abs(shares(tokens[:, row]) - expected).max() < 0.04


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"top_k": 2}, [1, 3]),
        ({"top_p": 0.69}, [1, 3]),  # .4 is less than .69, .4 and .3 are not
        ({"top_p": 0.71}, [1, 2, 3]),
        ({"top_p": 1e-9}, [1]),
        ({"top_k": 3, "top_p": 0.5}, [1, 3]),  # .4 is .44 of the share that top_k leaves
        ({"top_k": 99}, [0, 1, 2, 3]),
    ],
)
def test_only_the_likely_ones(settings: dict[str, Any], kept: list[int]) -> None:
    tokens = draws(Sampling(temperature=1.0, seed=0, **settings))[:, 0]
    assert sorted(set(tokens.tolist())) == kept
    expected = np.exp(LOGITS[0])[kept] / np.exp(LOGITS[0])[kept].sum()
    assert np.abs(shares(tokens)[kept] - expected).max() < 0.05


def test_seeds_repeat_row_by_row() -> None:
    sampling = Sampling(temperature=1.0, seed=3)
    both, again = draws(sampling, 50), draws(sampling, 50)
    assert (both == again).all()
    assert (draws(sampling, 50, LOGITS[:1])[:, 0] == both[:, 0]).all()
    assert (draws(Sampling(temperature=1.0, seed=4), 50) != both).any()
    assert (draws(Sampling(temperature=1.0), 50) != draws(Sampling(temperature=1.0), 50)).any()


def test_a_penalty_for_what_was_said() -> None:
    """Token 1 of the prompt and all chosen tokens are penalized; a negative logit is multiplied."""
    logits = np.array([[1.0, 3.0, 2.0, -1.0]], np.float32)
    sampler = Sampler(Sampling(repetition_penalty=2.0), [[1, 3]])
    assert [int(sampler.choose(logits)[0]) for _ in range(2)] == [2, 1]
    assert logits.tolist() == [[1.0, 3.0, 2.0, -1.0]]
    only_negative = np.array([[-1.5, -1.0]], np.float32)
    assert Sampler(Sampling(repetition_penalty=2.0), [[1]]).choose(only_negative)[0] == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"repetition_penalty": 0},
        {"seed": -1},
    ],
)
def test_a_value_out_of_range_is_named(wrong: dict[str, Any]) -> None:
    with refused():
        Sampling(**wrong)


def test_presence_and_frequency_penalties_count_the_new_tokens() -> None:
    """OpenAI's formula: logit − presence − frequency × times that the token was chosen. The prompt does not count."""
    logits = np.array([[2.0, 1.9, 0.0, 1.0]], np.float32)
    sampler = Sampler(Sampling(frequency_penalty=0.45), [[0, 0, 0]])
    assert [int(sampler.choose(logits)[0]) for _ in range(5)] == [0, 1, 0, 1, 0]
    sampler = Sampler(Sampling(presence_penalty=1.5), [[0]])
    assert [int(sampler.choose(logits)[0]) for _ in range(5)] == [0, 1, 3, 0, 0]
    assert (logits == np.array([[2.0, 1.9, 0.0, 1.0]], np.float32)).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("penalty", [5e-324, 1e-320, 1e-30, 1e30, 1e308])
@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1e-300, 1.0, 1e308])
def test_extreme_settings_choose_a_token(penalty: float, temperature: float) -> None:
    """A tiny penalty makes seen tokens with a positive logit certain, a huge one chooses among the others."""
    logits = np.array([[3.0, 1.0, 0.0, -2.0]], np.float32)
    sampling = Sampling(temperature=temperature, repetition_penalty=penalty, top_p=5e-324, seed=0)
    chosen = int(Sampler(sampling, [[1, 2, 3]]).choose(logits)[0])
    assert chosen == (1 if penalty < 1 else 0)
