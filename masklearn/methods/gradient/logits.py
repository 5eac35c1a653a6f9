"""Makes the first logits of masks from a prior, and a candidate from trained logits."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masklearn.masks.nm_codes import PATTERNS
from masklearn.masks.tiles import tile_weights
from masklearn.methods.base import Candidate

__all__ = ["PRIOR_LOGIT", "candidate_from_logits", "first_pattern_logits", "first_tile_logits", "likeliest"]

# Prior strength 3 times σ 0.014, both from the papers (PATCH and MaskLLM).
PRIOR_LOGIT = 3 * 0.014

# Range of the offsets that order the first tile logits by the prior's scores. It is smaller than a step of training.
_RANK = 5e-4


def first_pattern_logits(codes: Tensor) -> Tensor:
    """Returns the first pattern logits, fp32 `[N, 6, K/4]`; codes: the prior's patterns, uint8 `[N, K/4]`.

    A logit is `PRIOR_LOGIT` times the likeness of its pattern to the prior's. As in MaskLLM (arXiv 2409.17481), likeness is
    the number of positions that both keep (2, 1 or 0), minus its mean over the six patterns.
    """
    patterns = torch.from_numpy(PATTERNS.copy()).float()
    likeness = (patterns @ patterns.T - 1.0) * PRIOR_LOGIT
    return likeness[codes.int()].transpose(1, 2).contiguous()


def first_tile_logits(
    scores: Mapping[str, NDArray[np.float32]],
    tiles: Mapping[str, NDArray[np.bool_]],
    areas: Mapping[str, NDArray[np.int64]],
) -> dict[str, Tensor]:
    """Returns the first tile logits, fp32 `[grid]`, by linear.

    They are `PRIOR_LOGIT` for tiles that are dense in the prior and -`PRIOR_LOGIT` for 2:4 tiles, plus a small offset in
    the order of the prior's scores per weight.
    """
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
    """Returns a candidate with the likeliest pattern of every group, and scores in the order of the tile logits.

    A tile's score is exp(logit) · its weights. It is positive, and `select`, which divides it by the weights that the tile
    zeroes, chooses tiles with the lowest logits first. Of equal patterns the lowest code is chosen. Logits that did not
    train are None, and the prior's patterns or scores are used.
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
    """Returns the argmax over the six patterns, uint8 `[N, K/4]`, and the lowest code of equal ones.

    torch's argmax does not specify the result for equal values.
    """
    best = pattern_logits[:, 0].clone()
    code = torch.zeros_like(best, dtype=torch.uint8)
    for number in range(1, pattern_logits.shape[1]):
        plane = pattern_logits[:, number]
        higher = plane > best
        code.masked_fill_(higher, number)
        best = torch.where(higher, plane, best)
    return code
