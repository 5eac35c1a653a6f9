from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masklearn.masks.select import select
from masklearn.masks.tiles import grid_shape, tile_weights
from masklearn.methods.base import Candidate
from masklearn.methods.gradient.parametrization import (
    PRIOR_LOGIT,
    candidate_from_logits,
    first_pattern_logits,
    first_tile_logits,
    likeliest,
)

TILE = (3, 8)


@settings(max_examples=40)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 10), st.integers(1, 7)), min_size=1, max_size=4),
    ratio=st.floats(0.0, 0.5),
    seed=st.integers(0, 1000),
)
def test_untrained_logits_give_the_prior_back(shapes: list[tuple[int, int]], ratio: float, seed: int) -> None:
    """Neither a tile map nor a pattern changes, with ragged tiles too."""
    draw = np.random.default_rng(seed)
    sizes = {str(i): (n, 4 * g) for i, (n, g) in enumerate(shapes)}
    areas = {name: tile_weights(size, TILE) for name, size in sizes.items()}
    prior = {
        name: Candidate(
            draw.integers(0, 6, (n, k // 4), dtype=np.uint8),
            draw.random(grid_shape((n, k), TILE)).astype(np.float32),
        )
        for name, (n, k) in sizes.items()
    }
    scores = {name: candidate.score for name, candidate in prior.items()}
    tiles = select(scores, areas, ratio)
    logits = first_tile_logits(scores, tiles, areas)
    ended = {
        name: candidate_from_logits(
            first_pattern_logits(torch.from_numpy(prior[name].pattern)), logits[name], prior[name], TILE
        )
        for name in sizes
    }
    again = select({name: candidate.score for name, candidate in ended.items()}, areas, ratio)
    for name in sizes:
        np.testing.assert_array_equal(again[name], tiles[name])
        np.testing.assert_array_equal(ended[name].pattern, prior[name].pattern)


def test_pattern_logits_are_the_overlap_with_the_prior() -> None:
    """Pattern 01 shares both positions with itself, none with 23, and one with the other four."""
    found = first_pattern_logits(torch.tensor([[0]], dtype=torch.uint8)).flatten() / PRIOR_LOGIT
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, -1.0]))


def test_scores_rank_tiles_by_logit_whatever_their_size() -> None:
    logits = torch.tensor([[0.03, -0.2, 0.01], [0.5, -0.3, 0.0]])
    score = candidate_from_logits(
        None, logits, Candidate(np.zeros((5, 5), np.uint8), np.zeros(1, np.float32)), TILE
    ).score
    per_weight = score / tile_weights((5, 20), TILE)
    np.testing.assert_array_equal(per_weight.ravel().argsort(), logits.numpy().ravel().argsort())
    assert (score > 0).all()


def test_of_equal_logits_the_lowest_code_wins() -> None:
    logits = torch.tensor([[0.0, 1, 1, 0, 1, 0], [2, 2, 2, 2, 2, 2], [0, 0, 0, 0, 0, 3]]).view(3, 6, 1)
    assert likeliest(logits).flatten().tolist() == [1, 0, 5]
    assert likeliest(logits).dtype is torch.uint8
    random = torch.randn(7, 6, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(likeliest(random).long(), random.argmax(dim=1))


@pytest.mark.parametrize("trained", ["patterns", "tiles"])
def test_what_was_not_trained_is_the_priors(trained: str, tmp_path: Path) -> None:
    prior = Candidate(np.full((3, 4), 5, np.uint8), np.full((1, 2), 7, np.float32))
    patterns = first_pattern_logits(torch.zeros(3, 4, dtype=torch.uint8)) if trained == "patterns" else None
    tiles = torch.zeros(1, 2) if trained == "tiles" else None
    ended = candidate_from_logits(patterns, tiles, prior, TILE)
    assert (ended.pattern == (0 if trained == "patterns" else 5)).all()
    np.testing.assert_array_equal(ended.score == 7, trained == "patterns")
