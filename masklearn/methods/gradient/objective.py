"""Objective of mask learning: the language model's loss and the distance from the dense model, under drawn masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from masklearn.base.threads import total
from masklearn.methods.gradient.parametrization import Drawing, HybridMask, Sums
from masklearn.methods.gradient.settings import MaskSettings
from masklearn.training.head import Head, Labels, TargetDistribution, Teacher, head_loss
from masklearn.training.model import last_hidden

__all__ = ["DensityTarget", "MaskObjective", "density_excess", "norm_kept"]


@dataclass(frozen=True)
class DensityTarget:
    """Masks that have to reach a ratio together.

    places: numbers of the masks; weights: number of weights in all of them; zeroed: number of weights to zero.
    """

    places: Sequence[int]
    weights: int
    zeroed: float


def density_excess(targets: Sequence[DensityTarget], record: Mapping[int, Sums]) -> Tensor:
    """Returns the mean of |density − target| over the targets, weighted by their weights. For one target it is PATCH's term.

    A 2:4 tile keeps half of its weights, whatever its patterns.
    """
    excess = [
        (target.zeroed - 0.5 * torch.stack([record[place].sparse for place in target.places]).sum()).abs()
        for target in targets
    ]
    return torch.stack(excess).sum() / sum(target.weights for target in targets)


def norm_kept(record: Mapping[int, Sums], norm: float) -> Tensor:
    """Returns ‖M ⊙ W‖ / ‖W‖ over all masked weights; norm: ‖W‖."""
    return torch.stack([sums.energy for sums in record.values()]).sum().sqrt() / norm


class MaskObjective:
    """Objective that trains the logits of masks and no weights; see `training.loop.Objective`.

    loss = LM loss + distill·KL(dense ‖ masked) + λ₁·|density − target| − λ₂·(1 − fraction)·‖M ⊙ W‖/‖W‖. This is PATCH's
    loss (arXiv 2509.23410) plus the KL. The dense model is this model with its masks turned off, so it takes no memory. An
    encoder has no LM loss: ‖masked − dense‖² / ‖dense‖² of the last hidden states replaces both LM loss and KL.
    """

    def __init__(
        self,
        settings: MaskSettings,
        drawing: Drawing,
        masks: Sequence[HybridMask],
        targets: Sequence[DensityTarget],
        *,
        ratio: float,
        norm: float,
        distill: float,
        tile_rate: float,
        encoder: bool = False,
    ) -> None:
        """masks: in order of their places; ratio: zeroed weights / weights over all masks; norm: ‖W‖ of all masked weights;
        distill: weight of the KL; tile_rate: learning rate of the tile logits.
        """
        self._settings, self._drawing, self._masks, self._targets = settings, drawing, masks, targets
        self._norm, self._distill, self._tile_rate, self._encoder = norm, distill, tile_rate, encoder
        self._temperature = settings.temperature_for(ratio)
        self._left = 1.0  # 1 - fraction

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns pattern logits, with the schedule's learning rate, and tile logits, with their own."""
        patterns = [mask.pattern_logits for mask in self._masks if mask.pattern_logits is not None]
        tiles = [mask.tile_logits for mask in self._masks if mask.tile_logits is not None]
        groups: list[dict[str, Any]] = [{"params": patterns}, {"params": tiles, "lr": self._tile_rate}]
        return [group for group in groups if group["params"]]

    def begin(self, step: int, fraction: float) -> None:
        """Set κ, τ and the noise of the step."""
        drawing, settings = self._drawing, self._settings
        drawing.step = step
        drawing.temperature = self._temperature.at(fraction)
        if settings.tile_scale is not None:
            drawing.tile_scale = settings.tile_scale.at(fraction)
        if settings.pattern_scale is not None:
            drawing.pattern_scale = settings.pattern_scale.at(fraction)
        self._left = 1.0 - fraction

    def end(self, step: int) -> None:
        """Does nothing."""

    def loss(self, model: nn.Module, ids: Tensor) -> tuple[Tensor, Mapping[str, float]]:
        """Returns the loss of token ids `[batch, length]`, and the figures lm and kl (or hidden), and density."""
        record: dict[int, Sums] = {}
        dense = self._dense(model, ids) if self._distill or self._encoder else None
        self._drawing.record = record
        try:
            loss, figures = self._task_loss(model, ids, dense)
        finally:
            self._drawing.record = None  # blocks that gradient checkpointing runs again must record nothing
        kept = norm_kept(record, self._norm)
        loss = loss + self._settings.density_weight * density_excess(self._targets, record)
        loss = loss - self._settings.norm_weight * self._left * kept
        return loss, figures | {"density": self._density(record)}

    @torch.no_grad()
    def _dense(self, model: nn.Module, ids: Tensor) -> tuple[Tensor, Head | None]:
        """Returns the dense model's last hidden states and its head."""
        self._drawing.masked = False
        try:
            return last_hidden(model, ids), None if self._encoder else Head.of(model)
        finally:
            self._drawing.masked = True

    def _task_loss(
        self, model: nn.Module, ids: Tensor, dense: tuple[Tensor, Head | None] | None
    ) -> tuple[Tensor, dict[str, float]]:
        hidden = last_hidden(model, ids)
        if self._encoder:
            assert dense is not None
            target = dense[0].float()
            apart = total((hidden.float() - target).square()) / total(target.square())
            return apart, {"hidden": float(apart.detach())}
        targets: list[tuple[float, TargetDistribution]] = [(1.0, Labels(ids[:, 1:].flatten()))]
        if dense is not None and dense[1] is not None:
            targets.append((self._distill, Teacher(_predicting(dense[0]), dense[1])))
        loss, parts = head_loss(_predicting(hidden), Head.of(model), targets)
        return loss, dict(zip(("lm", "kl"), parts, strict=False))

    def _density(self, record: Mapping[int, Sums]) -> float:
        sparse = sum(float(sums.sparse.detach()) for sums in record.values())
        return 1.0 - 0.5 * sparse / sum(target.weights for target in self._targets)


def _predicting(hidden: Tensor) -> Tensor:
    """Returns the states whose next token is known: `[batch, length, hidden]` to `[batch·(length − 1), hidden]`."""
    return hidden[:, :-1].flatten(0, 1)
