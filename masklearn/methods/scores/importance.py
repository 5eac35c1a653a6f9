"""Makes candidates from the squared importance of every weight, with tile scores that compare across linears."""

import torch

from masklearn.masks.patterns import patterns_from_scores, removed_scores
from masklearn.masks.tiles import tile_sums
from masklearn.methods.base import Candidate
from masklearn.threads import total

__all__ = ["candidate_from_importance"]


def candidate_from_importance(importance: torch.Tensor, tile: tuple[int, int]) -> Candidate:
    """Returns the candidate of a linear; importance: `[N, K]`, >= 0, increase of the squared error if a weight is zeroed.

    The pattern keeps the two most important weights of each group. A tile's score is the importance of its pruned weights,
    in units of the linear's mean importance per weight, so that it depends neither on the scale of activations nor on the
    size of the linear. This unit was chosen on calibration text (SmolLM2-135M, ratio .4, tiles 128x128, 10 windows of 512
    tokens): the perplexity is 845 with magnitude and 152 with Wanda. Plain sums, which make mostly early blocks sparse,
    give 959 and 183. Shares of each linear's sum, which make mostly large linears sparse, give 1861 and 167.
    """
    mean = float(total(importance.double())) / importance.numel()
    score = tile_sums(removed_scores(importance).cpu().numpy(), tile)
    if mean > 0.0:  # every tile of an all-zero linear costs nothing
        score = score / mean
    return Candidate(patterns_from_scores(importance).cpu().numpy(), score.astype("float32"))
