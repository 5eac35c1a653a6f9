"""Runs a gradient method: makes the prior, puts logits on the linears, trains them, and yields candidates."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from masklearn.base.device import available_memory, usable_device
from masklearn.base.durable import write_whole
from masklearn.base.processes import is_main_process, made_once, process_rank
from masklearn.base.threads import total
from masklearn.choice.goal import LARGEST_RATIO, Goal
from masklearn.choice.losses import Losses
from masklearn.choice.select import Selection
from masklearn.masks.tiles import weights_of_tiles
from masklearn.methods.base import Candidate
from masklearn.methods.gradient.parametrization import (
    Drawing,
    HybridMask,
    Sums,
    candidate_from_logits,
    first_pattern_logits,
    first_tile_logits,
)
from masklearn.methods.gradient.prior import Prior, prior_path, report_path, write_prior
from masklearn.methods.gradient.settings import MaskSettings
from masklearn.model.linears import linear_modules
from masklearn.task import Task
from masklearn.training.head import Head, Labels, TargetDistribution, Teacher, head_loss
from masklearn.training.loop import Schedule, TrainReport, train
from masklearn.training.model import last_hidden, memory_need, training_model
from masklearn.traits import METHODS


@dataclass(frozen=True)
class DensityTarget:
    """Masks that have to reach a ratio together.

    places: numbers of the masks; weights: number of weights in all of them; zeroed: number of weights to zero.
    """

    places: Sequence[int]
    weights: int
    zeroed: float


def density_excess(targets: Sequence[DensityTarget], record: Mapping[int, Sums]) -> Tensor:
    """Returns the mean of |density − target| over the targets, weighted by their weights. For a single target it is PATCH's
    term.

    A 2:4 tile keeps half of its weights, whatever its patterns.
    """
    excess = [
        (target.zeroed - 0.5 * torch.stack([record[place].sparse for place in target.places]).sum()).abs()
        for target in targets
    ]
    return torch.stack(excess).sum() / sum(target.weights for target in targets)


class MaskObjective:
    """Objective that trains the logits of masks and no weights; see `training.loop.Objective`.

    loss = LM loss + KL(dense ‖ masked) + λ₁·|density − target| − λ₂·(1 − fraction)·‖M ⊙ W‖/‖W‖. This is PATCH's
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
        tile_rate: float,
        encoder: bool = False,
    ) -> None:
        """masks: in order of their places; ratio: zeroed weights / weights over all masks; norm: ‖W‖ of all masked weights;
        tile_rate: learning rate of the tile logits.
        """
        self._settings, self._drawing, self._masks, self._targets = settings, drawing, masks, targets
        self._norm, self._tile_rate, self._encoder = norm, tile_rate, encoder
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

    def loss(self, model: nn.Module, ids: Tensor) -> tuple[Tensor, Mapping[str, float]]:
        """Returns the loss of token ids `[batch, length]`, and the figures lm and kl (or hidden), and density."""
        record: dict[int, Sums] = {}
        dense = self._dense(model, ids)
        self._drawing.record = record
        try:
            loss, figures = self._task_loss(model, ids, dense)
        finally:
            self._drawing.record = None  # blocks that gradient checkpointing runs again must record nothing
        kept = torch.stack([sums.energy for sums in record.values()]).sum().sqrt() / self._norm
        loss = loss + self._settings.density_weight * density_excess(self._targets, record)
        loss = loss - self._settings.norm_weight * self._left * kept
        sparse = sum(float(sums.sparse.detach()) for sums in record.values())
        density = 1.0 - 0.5 * sparse / sum(target.weights for target in self._targets)
        return loss, figures | {"density": density}

    @torch.no_grad()
    def _dense(self, model: nn.Module, ids: Tensor) -> tuple[Tensor, Head | None]:
        self._drawing.masked = False
        try:
            return last_hidden(model, ids), None if self._encoder else Head.of(model)
        finally:
            self._drawing.masked = True

    def _task_loss(
        self, model: nn.Module, ids: Tensor, dense: tuple[Tensor, Head | None]
    ) -> tuple[Tensor, dict[str, float]]:
        hidden, (dense_hidden, head) = last_hidden(model, ids), dense
        if head is None:
            target = dense_hidden.float()
            apart = total((hidden.float() - target).square()) / total(target.square())
            return apart, {"hidden": float(apart.detach())}
        targets: list[tuple[float, TargetDistribution]] = [
            (1.0, Labels(ids[:, 1:].flatten())),
            (1.0, Teacher(_predicting(dense_hidden), head)),
        ]
        loss, parts = head_loss(_predicting(hidden), Head.of(model), targets)
        return loss, dict(zip(("lm", "kl"), parts, strict=True))


def _predicting(hidden: Tensor) -> Tensor:
    """Returns the states whose next token is known: `[batch, length, hidden]` to `[batch·(length − 1), hidden]`."""
    return hidden[:, :-1].flatten(0, 1)


def learn_by_gradient(task: Task, settings: MaskSettings) -> Iterator[tuple[str, Candidate]]:
    """Yield a candidate per linear, from logits that train for `recipe.steps` steps.

    Training resumes from its checkpoint in the scratch folder. Raises MaskLearnError as `write_prior` and `train` do.
    """
    path = prior_path(task)
    prior = Prior(made_once(path, lambda: write_prior(task, path)))
    model = training_model(task.checkpoint)
    modules = linear_modules(model, task.checkpoint)
    choice = task.choose(Losses({name: prior.score(name) for name in task.coverage.linears}, _areas(task)))
    tiles, goal = choice.tiles, choice.goal
    masks = _masks(task, settings, prior, tiles, goal)
    squares = (modules[name].weight.detach().square().sum(dtype=torch.float64) for name in masks)
    objective = _objective(task, settings, masks, goal, math.sqrt(sum(map(float, squares))))
    for name, mask in masks.items():
        # unsafe skips a check that would draw a mask. Masks keep the shape and dtype of the weight.
        parametrize.register_parametrization(modules[name], "weight", mask, unsafe=True)
    report = _train(task, settings, model, objective)
    if is_main_process():
        _write_report(task, report)
    for name in task.coverage.linears:
        if name not in masks:
            yield name, prior[name]
            continue
        mask = masks[name]
        logits = _whole(mask.pattern_logits), _whole(mask.tile_logits)
        yield name, candidate_from_logits(*logits, prior[name], task.recipe.tile)


def _masks(
    task: Task, settings: MaskSettings, prior: Prior, tiles: Selection, goal: Goal
) -> dict[str, HybridMask]:
    """Returns masks whose logits start from the prior, for the linears that the goal does not leave dense.

    tiles: the tiles that the prior's scores choose.
    """
    drawing = Drawing(task.recipe.seed, rank=process_rank())
    tile_logits: Mapping[str, Tensor] = {}
    if settings.learns_tiles:
        scores = {name: prior.score(name) for name in task.coverage.linears}
        tile_logits = first_tile_logits(scores, tiles, _areas(task))
    masks: dict[str, HybridMask] = {}
    for name, shape in task.coverage.linears.items():
        if name in goal.dense:
            continue
        codes = torch.from_numpy(prior[name].pattern)
        trained = settings.learns_patterns
        masks[name] = HybridMask(
            drawing,
            len(masks),
            shape,
            task.recipe.tile,
            tile_logits=tile_logits.get(name),
            pattern_logits=first_pattern_logits(codes) if trained else None,
            codes=None if trained else codes,
        )
    return masks


def _objective(
    task: Task, settings: MaskSettings, masks: Mapping[str, HybridMask], goal: Goal, norm: float
) -> MaskObjective:
    areas = _areas(task)
    targets = []
    for share in goal.shares(areas):
        if masks.keys() >= {*share.names}:
            weights = sum(int(areas[name].sum()) for name in share.names)
            # What linears save that fall out may be more than the others of their share can save.
            zeroed = min(share.saving, LARGEST_RATIO * weights)
            targets.append(DensityTarget([masks[name].place for name in share.names], weights, zeroed))
    weights = sum(target.weights for target in targets)
    ratio = sum(target.zeroed for target in targets) / weights if goal.dense else goal.ratio(areas)
    return MaskObjective(
        settings,
        next(iter(masks.values())).drawing,
        list(masks.values()),
        targets,
        ratio=ratio,
        norm=norm,
        tile_rate=task.recipe.learning_rate or settings.tile_rate(task.recipe.steps),
        encoder=task.checkpoint.architecture.encoder,
    )


def _train(task: Task, settings: MaskSettings, model: nn.Module, objective: MaskObjective) -> TrainReport:
    recipe = task.recipe
    schedule = Schedule.of(
        recipe,
        steps=recipe.steps,
        minutes=None,
        learning_rate=recipe.learning_rate or settings.learning_rate,
        decay="cosine",
        warmup=settings.warmup,
        betas=settings.betas,
        gradient_checkpointing=_keeps_much(task),
    )
    pool, _ = task.text.held_out()
    folder = task.scratch / "train" / "checkpoints"
    what = "learning masks"
    return train(model, objective, pool, schedule, folder, task.progress, what=what, note=task.note)


def _keeps_much(task: Task) -> bool:
    """True if what autograd keeps for the backward pass takes more than half of the free memory."""
    need = memory_need(task.checkpoint, {}, task.recipe.batch * task.recipe.length)
    return need.kept(bf16=task.bf16) > available_memory(usable_device(task.recipe.device)) / 2


def _write_report(task: Task, report: TrainReport) -> None:
    """Write the figures of training, without times, so that equal runs have equal records and mask files."""
    prior = task.recipe.prior
    record: dict[str, Any] = {
        "prior": prior if prior in METHODS else Path(prior).name,
        "steps": report.steps,
        "tokens": report.tokens,
        "first": dict(report.first),
        "last": dict(report.last),
    }
    write_whole(report_path(task), json.dumps(record))


def _whole(logits: Tensor | None) -> Tensor | None:
    """Returns the whole of a parameter that FSDP may have sharded. This is a collective call: all processes make it."""
    from torch.distributed.tensor import DTensor

    if isinstance(logits, DTensor):
        return logits.full_tensor().detach()
    return None if logits is None else logits.detach()


def _areas(task: Task) -> dict[str, NDArray[np.int64]]:
    return weights_of_tiles(task.coverage.linears, task.recipe.tile)
