"""Runs a gradient method: makes the prior, puts logits on the linears, trains them, and yields candidates."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from masklearn.base.durable import whole_file
from masklearn.base.processes import is_main_process, made_once, process_rank
from masklearn.masks.budget import Budget
from masklearn.masks.select import Selection
from masklearn.masks.tiles import weights_of_tiles
from masklearn.methods.base import Candidate
from masklearn.methods.gradient.contest import held_out, report_path
from masklearn.methods.gradient.logits import candidate_from_logits, first_pattern_logits, first_tile_logits
from masklearn.methods.gradient.objective import DensityTarget, MaskObjective
from masklearn.methods.gradient.parametrization import Drawing, HybridMask
from masklearn.methods.gradient.prior import Prior, prior_path, write_prior
from masklearn.methods.gradient.settings import MaskSettings
from masklearn.model.architectures import architecture_of
from masklearn.model.linears import linear_modules
from masklearn.task import Task
from masklearn.training.loop import Schedule, TrainReport, train
from masklearn.training.model import training_model
from masklearn.traits import METHODS

__all__ = ["learn_by_gradient"]


def learn_by_gradient(task: Task, settings: MaskSettings) -> Iterator[tuple[str, Candidate]]:
    """Yield a candidate per linear, from logits that train for `recipe.steps` steps.

    Training resumes from its checkpoint in the scratch folder. Raises MaskLearnError as `write_prior` and `train` do.
    """
    path = prior_path(task)
    prior = Prior(made_once(path, lambda: write_prior(task, path)))
    model = training_model(task.checkpoint)
    modules = linear_modules(model, task.checkpoint)
    tiles, budget = task.choose({name: prior.score(name) for name in task.coverage.linears}, _areas(task))
    masks = _masks(task, settings, prior, tiles, budget)
    objective = _objective(task, settings, masks, budget, _norm([modules[name].weight for name in masks]))
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
    task: Task, settings: MaskSettings, prior: Prior, tiles: Selection, budget: Budget
) -> dict[str, HybridMask]:
    """Returns masks whose logits start from the prior, for the linears that the budget does not leave dense.

    tiles: the tiles that the prior's scores choose.
    """
    drawing = Drawing(task.recipe.seed, rank=process_rank())
    tile_logits: Mapping[str, Tensor] = {}
    if settings.learns_tiles:
        scores = {name: prior.score(name) for name in task.coverage.linears}
        tile_logits = first_tile_logits(scores, tiles, _areas(task))
    masks: dict[str, HybridMask] = {}
    for name, shape in task.coverage.linears.items():
        if name in budget.dense:
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
    task: Task, settings: MaskSettings, masks: Mapping[str, HybridMask], budget: Budget, norm: float
) -> MaskObjective:
    areas = _areas(task)
    shares = [share for share in budget.shares(areas) if masks.keys() >= {*share.names}]
    targets = [
        DensityTarget(
            [masks[name].place for name in share.names],
            sum(int(areas[name].sum()) for name in share.names),
            share.saving,
        )
        for share in shares
    ]
    weights = sum(target.weights for target in targets)
    ratio = sum(target.zeroed for target in targets) / weights if budget.dense else budget.ratio(areas)
    return MaskObjective(
        settings,
        next(iter(masks.values())).drawing,
        list(masks.values()),
        targets,
        ratio=ratio,
        norm=norm,
        distill=task.recipe.distill_weight,
        tile_rate=task.recipe.learning_rate or settings.tile_rate(task.recipe.steps),
        encoder=architecture_of(task.checkpoint).encoder,
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
        gradient_checkpointing=recipe.gradient_checkpointing,
    )
    pool, _ = held_out(task.text)
    folder = task.scratch / "train" / "checkpoints"
    what = "learning masks"
    return train(model, objective, pool, schedule, folder, task.progress, what=what, note=task.note)


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
    with whole_file(report_path(task)) as part:
        part.write_text(json.dumps(record))


def _whole(logits: Tensor | None) -> Tensor | None:
    """Returns the whole of a parameter that FSDP may have sharded. This is a collective call: all processes make it."""
    from torch.distributed.tensor import DTensor

    if isinstance(logits, DTensor):
        return logits.full_tensor().detach()
    return None if logits is None else logits.detach()


def _norm(weights: list[Tensor]) -> float:
    """Returns ‖W‖ over all weights together."""
    return math.sqrt(sum(float(weight.detach().square().sum(dtype=torch.float64)) for weight in weights))


def _areas(task: Task) -> dict[str, NDArray[np.int64]]:
    return weights_of_tiles(task.coverage.linears, task.recipe.tile)
