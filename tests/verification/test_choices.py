import math

import numpy as np
import pytest
import torch

from patch_compile.verification.choices import following
from tests.refusals import refused

SCORES = torch.tensor([[4.0, 3.0, 1.0], [1.0, 2.0, 2.0]])


def of(*indices: list[int]) -> np.ndarray:
    return np.array(indices, np.int64)


def test_forced_choices_show_their_loss():
    with following({"a": of([0], [1]), "b": of([1, 0], [2, 0])}) as followed:
        first = torch.topk(SCORES, 1)
        assert followed.lost == 0 and first.indices.tolist() == [[0], [1]]
        values, indices = SCORES.topk(2, dim=-1)
        assert torch.arange(3).tolist() == [0, 1, 2]
    assert values.tolist() == [[3, 4], [2, 1]] and indices.tolist() == [[1, 0], [2, 0]]
    assert followed.lost == pytest.approx(1 / 4)  # 2 + 1 instead of 2 + 2
    assert torch.topk(SCORES, 1).indices[0].item() == 0


@pytest.mark.parametrize("wrong", [[0, 0], [0, 3], [-1, 0]], ids=["twice", "none such", "below zero"])
def test_impossible_experts_are_not_followed(wrong: list[int]):
    with following({"a": of(wrong, [1, 2])}) as followed:
        assert torch.topk(SCORES, 2).values[0].tolist() == [4, 3]
    assert followed.lost == math.inf


def test_ruled_out_experts_lose_infinitely():
    with following({"a": of([1])}) as followed:
        torch.topk(torch.tensor([[1.0, -math.inf]]), 1)
    assert followed.lost == math.inf


def test_routing_must_match_the_graphs_shape():
    with refused(ValueError), following({"a": of([0], [1])}):
        pass
    with refused(ValueError), following({"a": of([0], [1])}):
        SCORES.topk(1)
        SCORES.topk(1)
    with refused(ValueError), following({"a": of([0], [1])}):
        SCORES.topk(2)


def test_without_choices_a_model_chooses_itself():
    with following({}) as followed:
        assert SCORES.topk(1).indices.tolist()[0] == [0]
    assert followed.lost == 0
