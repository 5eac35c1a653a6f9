"""Logits of masks: those a prior starts them with, and the candidate they end as."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masklearn.masks.patterns import PATTERNS
from masklearn.masks.tiles import tile_weights
from masklearn.methods.base import Candidate

__all__ = ["PRIOR_LOGIT", "candidate_from_logits", "first_pattern_logits", "first_tile_logits", "likeliest"]

# Prior strength 3 times σ 0.014, both of the papers.
PRIOR_LOGIT = 3 * 0.014

# Tiles that training leaves where the prior put them keep the order of its scores, by less than what a step moves.
_RANK = 5e-4


def first_pattern_logits(codes: Tensor) -> Tensor:
    """uint8 `[N, K/4]` to fp32 `[N, 6, K/4]`: the strength times how much a pattern shares with the prior's.

    MaskLLM (arXiv 2409.17481): the overlap of two patterns (2, 1 or 0 positions) less its mean over the six.
    """
    patterns = torch.from_numpy(PATTERNS.copy()).float()
    likeness = (patterns @ patterns.T - 1.0) * PRIOR_LOGIT
    return likeness[codes.int()].transpose(1, 2).contiguous()


def first_tile_logits(
    scores: Mapping[str, NDArray[np.float32]],
    tiles: Mapping[str, NDArray[np.bool_]],
    areas: Mapping[str, NDArray[np.int64]],
) -> dict[str, Tensor]:
    """fp32 `[grid]` each: the strength for tiles that the prior leaves dense, less it for those it makes 2:4."""
    per_weight = np.concatenate([(scores[name].astype(np.float64) / areas[name]).ravel() for name in tiles])
    ranks = np.empty(per_weight.size)
    ranks[np.argsort(per_weight, kind="stable")] = np.linspace(-_RANK, _RANK, per_weight.size)
    logits, start = {}, 0
    for name, grid in tiles.items():
        rank = ranks[start : start + grid.size].reshape(grid.shape)
        logits[name] = torch.from_numpy(np.where(grid, -PRIOR_LOGIT, PRIOR_LOGIT) + rank).float()
        start += grid.size
    return logits


def candidate_from_logits(
    pattern_logits: Tensor | None, tile_logits: Tensor | None, prior: Candidate, tile: tuple[int, int]
) -> Candidate:
    """The likeliest pattern of every group (of equal ones the lowest code), and scores in the order of the logits.

    A tile's cost is exp(logit) for each of its weights: positive, and `select`, which divides it by what the tile
    zeroes, takes the lowest logits first. What was not trained (None) is the prior's.
    """
    pattern, score = prior.pattern, prior.score
    if pattern_logits is not None:
        pattern = likeliest(pattern_logits).cpu().numpy()
    if tile_logits is not None:
        shape = (pattern.shape[0], pattern.shape[1] * 4)
        cost = tile_logits.double().exp().cpu().numpy() * tile_weights(shape, tile)
        score = cost.astype(np.float32)
    return Candidate(pattern, score)


def likeliest(pattern_logits: Tensor) -> Tensor:
    """argmax over the six, uint8 `[N, K/4]`; torch's own argmax does not promise which of equal ones it gives."""
    best = pattern_logits[:, 0].clone()
    code = torch.zeros_like(best, dtype=torch.uint8)
    for number in range(1, pattern_logits.shape[1]):
        plane = pattern_logits[:, number]
        higher = plane > best
        code.masked_fill_(higher, number)
        best = torch.where(higher, plane, best)
    return code
