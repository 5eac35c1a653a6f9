"""Makes candidates from the squared importance of every weight, with tile scores that compare across linears."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.base.threads import total
from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.nm_codes import patterns_from_scores, removed_scores
from masklearn.masks.tiles import GROUP, tile_sums
from masklearn.methods.base import Candidate, Candidates

__all__ = ["candidates_from_importance"]


def candidates_from_importance(
    importance: torch.Tensor, tile: tuple[int, int], kinds: Iterable[TileKind]
) -> Candidates:
    """Returns the candidates of a linear; importance: `[N, K]`, >= 0, increase of the squared error if a weight is zeroed.

    A kind keeps the most important weights of each group. A tile's score is the importance of its pruned weights,
    in units of the linear's mean importance per weight, so that it depends neither on the scale of activations nor on the
    size of the linear. This unit was chosen on calibration text (SmolLM2-135M, ratio .4, tiles 128x128, 10 windows of 512
    tokens): the perplexity is 845 with magnitude and 152 with Wanda. Plain sums, which make mostly early blocks sparse,
    give 959 and 183. Shares of each linear's sum, which make mostly large linears sparse, give 1861 and 167.
    """
    mean = float(total(importance.double())) / importance.numel()
    found = {}
    for kind in kinds:
        pattern, removed = _removed(importance, kind)
        score = tile_sums(removed, tile)
        if mean > 0.0:  # every tile of an all-zero linear costs nothing
            score = score / mean
        found[kind] = Candidate(pattern, score.astype("float32"))
    return found


def _removed(
    importance: torch.Tensor, kind: TileKind
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.float32]]:
    """Returns the codes of all groups, and the importance that they prune in each 4 columns, `[N, K/4]`."""
    if kind is TWO_FOUR:
        return patterns_from_scores(importance).cpu().numpy(), removed_scores(importance).cpu().numpy()
    assert kind.family is not None
    codes = kind.family.best(importance, kind.kept)
    pruned = importance.masked_fill(kind.family.keep(codes), 0.0)
    fours = pruned.view(pruned.shape[0], -1, GROUP)
    removed = fours[..., 0] + fours[..., 1] + fours[..., 2] + fours[..., 3]
    return codes.cpu().numpy().astype(kind.family.stored), removed.cpu().numpy()
