import math

import numpy as np
import pytest
import torch

from patch_compile.verification.choices import following

SCORES = torch.tensor([[4.0, 3.0, 1.0], [1.0, 2.0, 2.0]])


def of(*indices: list[int]) -> np.ndarray:
    return np.array(indices, np.int64)


def test_the_model_takes_the_choices_and_their_loss_is_found():
    with following({"a": of([0], [1]), "b": of([1, 0], [2, 0])}) as followed:
        first = torch.topk(SCORES, 1)
        assert followed.lost == 0 and first.indices.tolist() == [[0], [1]]
        values, indices = SCORES.topk(2, dim=-1)
        assert torch.arange(3).tolist() == [0, 1, 2]
    assert values.tolist() == [[3, 4], [2, 1]] and indices.tolist() == [[1, 0], [2, 0]]
    assert followed.lost == pytest.approx(1 / 4)  # 2 + 1 instead of 2 + 2
    assert torch.topk(SCORES, 1).indices[0].item() == 0


@pytest.mark.parametrize("wrong", [[0, 0], [0, 3], [-1, 0]], ids=["twice", "none such", "below zero"])
def test_no_model_follows_experts_that_can_not_be_chosen(wrong: list[int]):
    with following({"a": of(wrong, [1, 2])}) as followed:
        assert torch.topk(SCORES, 2).values[0].tolist() == [4, 3]
    assert followed.lost == math.inf


def test_an_expert_that_the_model_rules_out_is_infinitely_worse():
    with following({"a": of([1])}) as followed:
        torch.topk(torch.tensor([[1.0, -math.inf]]), 1)
    assert followed.lost == math.inf


def test_a_model_must_choose_as_often_and_from_as_many_as_the_graph():
    with pytest.raises(ValueError, match="more often"), following({"a": of([0], [1])}):
        pass
    with pytest.raises(ValueError, match="has not chosen"), following({"a": of([0], [1])}):
        SCORES.topk(1)
        SCORES.topk(1)
    with pytest.raises(ValueError, match="has not chosen"), following({"a": of([0], [1])}):
        SCORES.topk(2)


def test_without_choices_a_model_chooses_itself():
    with following({}) as followed:
        assert SCORES.topk(1).indices.tolist()[0] == [0]
    assert followed.lost == 0
