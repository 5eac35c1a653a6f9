"""Tile scores of the one-shot methods, from a single pass over a model."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.base.errors import MaskLearnError
from masklearn.base.threads import total
from masklearn.choice.losses import RoundingLoss
from masklearn.feed import Arrays, Feed, Group
from masklearn.masks.kinds.base import TileKind
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.nm_codes import patterns_from_scores
from masklearn.masks.tiles import GROUP, sum_columns, sum_rows, tile_sums, tile_weights
from masklearn.methods.base import Candidate, Candidates, WithRounding
from masklearn.quant.table import W8A8, WeightType
from masklearn.solvers import obs
from masklearn.solvers.projection import Projection
from masklearn.solvers.rounding import check_range, losses_of_rows
from masklearn.stream.moments import output_energy
from masklearn.traits import FISHER_WINDOWS, Criterion, Requires


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
    candidates = {}
    for kind in kinds:
        pattern, removed = _removed(importance, kind)
        score = tile_sums(removed, tile)
        if mean > 0.0:  # every tile of an all-zero linear costs nothing
            score = score / mean
        candidates[kind] = Candidate(pattern, score.astype("float32"))
    return candidates


def _removed(
    importance: torch.Tensor, kind: TileKind
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.float32]]:
    """Returns the codes of all groups, and the importance that they prune in each 4 columns, `[N, K/4]`."""
    assert kind.family is not None
    codes = kind.family.best(importance, kind.kept)
    pruned = importance.masked_fill(kind.family.keep(codes), 0.0)
    fours = pruned.view(pruned.shape[0], -1, GROUP)
    removed = fours[..., 0] + fours[..., 1] + fours[..., 2] + fours[..., 3]
    return codes.cpu().numpy().astype(kind.family.stored), removed.cpu().numpy()


_PATTERN, _ERRORS, _ROUNDING, _INPUTS = "pattern", "errors", "rounding", "inputs"
_NO_CODES = np.zeros(0, np.uint16)  # a method that ranks tiles by error solves patterns for the chosen kinds
_SCORE_WINDOWS = 16  # at least
_TOKENS_PER_INPUT = 4  # at least, half of them for the Hessian and half of them to check


def candidates_by_error(feed: Feed, criterion: Criterion) -> Iterator[tuple[str, Candidates]]:
    """Yield candidates per linear, with scores by the criterion, and for 2:4 SparseGPT's pattern for every group of 4.

    All kinds are solved with the same Hessian and in the same pass. Reference criteria keep the largest |w| of each group.
    Linears whose types are to be chosen get the cost of rounding too. Raises MaskLearnError as `obs.with_damping` and the
    feed do.
    """
    if Requires.INPUTS not in criterion.needs:
        yield from _without_inputs(feed, criterion)
        return

    def prune(group: Group) -> dict[str, Arrays]:
        return _prune_group(feed, group, criterion)

    fisher = FISHER_WINDOWS if Requires.LOSS in criterion.needs else 0
    widest = max(columns for _, columns in feed.shapes.values())
    windows = max(_SCORE_WINDOWS, -(-_TOKENS_PER_INPUT * widest // feed.recipe.length))
    for name, pruned, sensitivity in feed.moments(prune, windows, criterion, fisher=fisher):
        candidates = {}
        rows = None if sensitivity is None else _row_weights(sensitivity, by_output=feed.recipe.permute)
        for kind in feed.kinds[name]:
            errors: NDArray[np.floating] = pruned[f"{_ERRORS} {kind}"]
            if rows is not None:
                errors = errors * rows
            pattern = pruned[_PATTERN] if kind is TWO_FOUR else _NO_CODES
            candidates[kind] = Candidate(pattern, sum_rows(errors, feed.recipe.tile).astype(np.float32))
        lost = {}
        for weights in _types_to_score(feed, name):
            losses = pruned[f"{_ROUNDING} {weights}"]
            lost[weights] = float(losses.sum(dtype=np.float64) if rows is None else losses @ rows[:, 0])
        rounding = RoundingLoss(lost, pruned[_INPUTS].tobytes().decode()) if lost else None
        yield name, WithRounding(candidates, rounding) if rounding else candidates


def _types_to_score(feed: Feed, name: str) -> list[WeightType]:
    allowed = feed.allowed_types[name]
    return [kind for kind in allowed if kind.quantised] if len(allowed) > 1 else []


def _row_weights(fisher: NDArray[np.float64], *, by_output: bool) -> NDArray[np.float64]:
    """Returns the cost of an error in each row, `[N, 1]`, from E[g²] `[N]` of the outputs.

    In a checkpoint's own order the rows of a tile are unrelated, and a number per linear ranks tiles as well as a number
    per output does (SmolLM2-135M, ratio .35: perplexity 58.0 and 58.1). After a permutation the rows of a tile are similar,
    and a number per linear would lose most of the gain of permuting, so `by_output` is True then.
    """
    return fisher[:, None] if by_output else np.full((len(fisher), 1), fisher.mean())


def _prune_group(feed: Feed, group: Group, criterion: Criterion) -> dict[str, Arrays]:
    """Prune each linear once for each kind. Returns patterns of 2:4 and errors, without weights.

    The pattern is uint8 codes `[N, K/4]`. The errors of each kind, fp32 `[N, grid columns]`, are the cost of each row of a
    tile: its squared output error per token, or as a share of the linear's output energy. A solve fits the tokens of its
    Hessian, the better the fewer they are for a column. So the errors of a linear add up to its error on other tokens:
    Qwen2.5-Coder-1.5B loses 2 times as much there in gate_proj, and 19 times as much in down_proj (block 2, 4,096 tokens).
    """
    first = next(iter(group.weights))
    factor = obs.inverse_factor(group.moment.clone(), group.damping, first, feed.note)
    scales = {name: float(group.samples) for name in group.weights}
    if criterion is Criterion.RELATIVE:
        scales = {name: output_energy(weight, group.moment) for name, weight in group.weights.items()}
    units = {name: _unit(weight, group) for name, weight in group.weights.items()}
    asked = [(name, kind) for name in group.weights for kind in feed.kinds[name]]
    linears = [
        (group.weights[name], Projection.everywhere(kind, feed.shapes[name], group.moment.device))
        for name, kind in asked
    ]
    pruned: dict[str, dict[str, NDArray[Any]]] = {name: {} for name in group.weights}
    for i, solved in obs.solve_each(linears, factor):
        name, kind = asked[i]
        weight, loss = group.weights[name], solved.loss.cpu().numpy()
        if (unit := units[name]) and group.check is not None:
            fitted = float(loss.sum(dtype=np.float64)) or 1.0
            loss *= unit * output_energy(weight - solved.weight, group.check) / fitted
        errors = sum_columns(loss, feed.recipe.tile) / (scales[name] or 1.0)
        pruned[name][f"{_ERRORS} {kind}"] = errors.astype(np.float32)
        if kind is TWO_FOUR:
            pruned[name][_PATTERN] = solved.codes.pattern.cpu().numpy()
    for name, weight in group.weights.items():
        for target in _types_to_score(feed, name):
            check_range(name, weight, target)
            lost = losses_of_rows(weight, factor, target, group.check if units[name] else None)
            lost *= units[name] or 1.0
            if target.input_bits == W8A8.input_bits:
                lost += _losses_of_inputs(feed, name, weight, group)
            pruned[name][f"{_ROUNDING} {target}"] = (lost.cpu().numpy() / (scales[name] or 1.0)).astype(
                np.float32
            )
            pruned[name][_INPUTS] = np.frombuffer(first.encode(), np.uint8)
    return {**pruned}


def _unit(weight: torch.Tensor, group: Group) -> float:
    """Returns the energy of a linear's outputs on the text of `group.moment`, over that on the text of `group.check`; 0 if
    there is no such text."""
    energy = 0.0 if group.check is None else output_energy(weight, group.check)
    return output_energy(weight, group.moment) / energy if energy > 0.0 else 0.0


def _losses_of_inputs(feed: Feed, name: str, weight: torch.Tensor, group: Group) -> torch.Tensor:
    """Returns the squared output error `[N]` of rounding the inputs of a linear to int8, summed over the tokens.

    Errors of different inputs are as good as independent. Raises MaskLearnError if the errors are not known.
    """
    if group.input_errors is None:
        raise MaskLearnError(
            f"The loss of {W8A8} in {name} is not known",
            "Types are chosen by their loss, and this model's inputs were not kept to round them.",
            f"Name one type for each linear, or leave {W8A8} out of `weights`: {feed.recipe.weights}.",
        )
    return weight.square() @ group.input_errors


def _without_inputs(feed: Feed, criterion: Criterion) -> Iterator[tuple[str, Candidates]]:
    """Yield candidates of the reference criteria: Σ|w| of a tile in units of the linear's mean |w|, or a seeded draw.

    A kind costs the share of it that it zeroes, so that the order of tiles is the same for every kind.
    """
    rng = np.random.default_rng(feed.recipe.seed)
    for name, signed in feed.weights():
        weight = signed.abs()
        areas = tile_weights(feed.shapes[name], feed.recipe.tile)
        score: NDArray[np.floating]
        if criterion is Criterion.RANDOM:
            score = rng.random(areas.shape) * areas
        else:
            groups = weight.view(weight.shape[0], -1, GROUP).sum(dim=2)
            score = tile_sums(groups.cpu().numpy(), feed.recipe.tile) / (
                float(total(weight)) / weight.numel() or 1.0
            )
        pattern = patterns_from_scores(weight).cpu().numpy()
        yield (
            name,
            {
                kind: Candidate(
                    pattern if kind is TWO_FOUR else _NO_CODES,
                    (score * (kind.zeros / TWO_FOUR.zeros)).astype(np.float32),
                )
                for kind in feed.kinds[name]
            },
        )
