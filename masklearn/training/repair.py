"""Repair: trains the surviving weights end to end against the dense model, under fixed masks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn

from masklearn.base.device import available_memory, usable_device
from masklearn.base.threads import total
from masklearn.choice.menu import quantised_types
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.record import RepairRecord
from masklearn.model.store import WeightStore
from masklearn.quant.grid import Grid
from masklearn.quant.table import INT4
from masklearn.task import Task
from masklearn.training.head import Head, Teacher, head_loss
from masklearn.training.loop import Schedule, TrainReport, train
from masklearn.training.model import MemorySettings, first_that_fits, last_hidden, memory_need, training_model
from masklearn.training.student import Student, StudentOnGrids


class Distillation:
    """Objective of distillation: KL(teacher ‖ student), the mean over all tokens.

    An encoder does not predict tokens: its loss is ‖student − teacher‖² / ‖teacher‖² of the last hidden states.

    trained: parameters of the student that train; teacher_bf16: True if the teacher's linears are in bf16.
    """

    def __init__(
        self, teacher: Any, trained: Sequence[nn.Parameter], *, encoder: bool, teacher_bf16: bool
    ) -> None:
        self.figure = "error" if encoder else "kl"
        self._teacher, self._trained = teacher, list(trained)
        self._encoder, self._teacher_bf16 = encoder, teacher_bf16

    def parameter_groups(self) -> list[dict[str, Any]]:
        trained, self._trained = self._trained, []  # not kept, so that they are freed with the student
        return [{"params": trained}]

    def loss(self, model: nn.Module, ids: Tensor) -> tuple[Tensor, Mapping[str, float]]:
        """Returns the loss of token ids `[batch, length]`, and the distance from the teacher as a figure."""
        target = self._target(ids)
        hidden = last_hidden(model, ids)
        if self._encoder:
            error = total((hidden.float() - target).square()) / total(target.square())
            return error, {self.figure: float(error.detach())}
        teacher = Teacher(target.flatten(0, 1), Head.of(self._teacher))
        loss, losses = head_loss(hidden.flatten(0, 1), Head.of(model), [(1.0, teacher)])
        return loss, {self.figure: losses[0]}

    def begin(self, step: int, fraction: float) -> None:
        """Does nothing: the objective is the same at every step."""

    @torch.no_grad()
    def _target(self, ids: Tensor) -> Tensor:
        self._teacher.to(ids.device)
        if not self._teacher_bf16:
            return last_hidden(self._teacher, ids).float()
        with torch.autocast(ids.device.type, torch.bfloat16):
            return last_hidden(self._teacher, ids).float()


# Measured on SmolLM2-135M in 80 steps: perplexity ends higher with 0.9e-4 and 6e-4 at ratio .25, and with 1.8e-4 at
# .35. The divergence ends a little lower with the lower rates. A model of kinds auto at .25, nearer to the dense model, goes
# from a KL of .1148 to .1188 with 3e-4, and to .1071 with 0.86e-4.
_LEARNING_RATE = 3e-4
_FAR = 0.4  # distance from the dense model below which the rate falls in proportion
# Of their factors, which are about 1, and of norms and biases. Measured on SmolLM2-135M in int4, 31 steps: a dense model
# goes from a KL of .0978 to .0915, and to .1048 with 3e-3; a model of kinds auto at .35, repaired, from .2961 to .2855, and
# to .2949 with 3e-3.
_LEARNING_RATE_OF_SCALES = 1e-3
_SHARE_OF_SCALES = 1 / 3  # of the budget, if weights are pruned and rounded to int4
# Held-out tokens, in at least 4 windows, on which trained weights and scales must be better to be kept.
_JUDGED, _LEAST = 2048, 4
_BETAS = (0.9, 0.95)
_WARMUP = 5
# The budget of a repair without a budget, for a model of at most _WEIGHTS weights; see `default_steps`.
_TOKENS = 2**16
_WEIGHTS = 135_000_000


def repair(task: Task, masks: Mapping[str, LinearMask], store: WeightStore) -> RepairRecord:
    """Distil the dense model into the masked model, and put the trained tensors in `store`.

    The student starts from `task.checkpoint` with its new weights (`Student` says which parameters train). The teacher is
    the model of the same directory. The budget is the recipe's, or else `default_steps`, less the share of
    `repair_scales`. An interrupted run resumes from `task.scratch / "repair"`. `task.note` is told of every setting that
    does not fit into the free memory.

    Returns a record with method "distill" and the run's figures, or with method "none" and the reason: a model that computes
    what the dense model computes, for example, has nothing to repair. The caller takes the tensors only if the record says
    that they are kept: their loss on held-out text, which does not train, is lower than the loss of the weights before. The
    record holds no times, so that equal runs have equal records.

    Raises MaskLearnError as `train`, `training_model` and `WeightStore.put` do.
    """
    if task.recipe.repair_steps == 0:
        return RepairRecord(method="none", why="its budget is 0 steps")
    if _is_dense(task, masks):
        return RepairRecord(method="none", why="no weight is pruned")
    room = available_memory(usable_device(task.recipe.device))
    settings = _memory_settings(task, masks, room)
    if settings is None:
        task.note("repair is off: give a smaller `batch` or `length`, or a device with more memory")
        return RepairRecord(method="none", why=f"{room / 2**30:.1f} GiB of memory are too little to train in")
    share = 1.0 - (_SHARE_OF_SCALES if searched_grids(task) else 0.0)
    student = Student(task.checkpoint, masks)
    run = _Run(task, student, settings)
    before = run.judge(student.model)
    rate = task.recipe.learning_rate or default_rate(before)
    schedule = _schedule(task, settings, share, rate)
    report = run.train(student, "repair", store, schedule)
    del student  # another model takes its memory
    after = run.judge(training_model(task.checkpoint.with_weights(store)))
    return _record(task, report, run, schedule, before, after)


def repair_scales(
    task: Task,
    masks: Mapping[str, LinearMask],
    grids: Mapping[str, Grid],
    store: WeightStore,
    record: RepairRecord,
) -> tuple[dict[str, Grid], RepairRecord]:
    """Train the scales of rounded weights, and norms and biases, as `repair` trained the weights before they were rounded.

    This is the second stage of EfficientQAT (arXiv 2407.11062), after other rounding. It takes `_SHARE_OF_SCALES` of the
    repair's budget, and all of it if no weight is pruned. Measured on SmolLM2-135M (2:4 tiles of 64x64 at ratio .35, 42
    steps of repair and 21 of scales at the rate 3e-3, 8 windows of WikiText-2): perplexity 45.8 in 16 bits after the repair,
    56.7 rounded to int4, 50.8 with trained scales.

    task: of the rounded checkpoint; grids: of its quantised linears; store: receives the trained tensors; record: of the
    repair. Returns the grids that the weights in `store` lie on, no grids if these weights lose more than the rounded
    weights on text that was not trained on; and the record with the figures. Raises as `repair` does.
    """
    trained = {name: grids[name] for name in searched_grids(task)}
    is_dense = _is_dense(task, masks)
    if not trained or (record.method == "none" and not is_dense):
        return {}, record
    settings = _memory_settings(task, masks, available_memory(usable_device(task.recipe.device)))
    if settings is None:
        return {}, record
    share = 1.0 if is_dense else _SHARE_OF_SCALES
    schedule = _schedule(task, settings, share, _LEARNING_RATE_OF_SCALES)
    if schedule.steps == 0:
        return {}, record
    schedule = replace(schedule, seed=schedule.seed + 1)  # in another order than the repair's
    student = StudentOnGrids(task.checkpoint, masks, trained)
    run = _Run(task, student, settings)
    before = run.judge(student.model)
    report = run.train(student, "scales", store, schedule)
    new_grids = {**grids, **student.grids}
    del student  # another model takes its memory
    after = run.judge(training_model(task.checkpoint.with_weights(store)))
    task.note(
        f"scales: {report.steps} steps, {report.tokens:,} tokens in {report.seconds:.0f} s; {run.figure} to the dense model"
        f", on the windows that judge them, {before:.4g} as rounded, {after:.4g} with trained scales"
        f"{'' if after < before else ', which are not kept'}"
    )
    figures = {
        "scale_steps": report.steps,
        "tokens": record.tokens + report.tokens,
        "scales_first": before,
        "scales_last": min(before, after),
    }
    if is_dense:  # before it is rounded
        figures |= {f"{run.figure}_first": 0.0, f"{run.figure}_last": 0.0}
    return new_grids if after < before else {}, record.model_copy(update=figures)


def _is_dense(task: Task, masks: Mapping[str, LinearMask]) -> bool:
    """True if repair has nothing to do: until its weights are rounded, the model computes what the dense model computes."""
    changes = any(mask.zeroed for mask in masks.values()) or task.recipe.traits.trains()
    return not (changes or task.checkpoint.rounded_inputs)


def searched_grids(task: Task) -> list[str]:
    """Returns the linears whose scales `repair_scales` trains: all that do not keep a checkpoint's scales, if any of them is
    int4.

    Rounding to int8 costs so little that the whole budget is better spent before it.
    """
    stored = task.checkpoint.grids.types
    types = quantised_types(task.recipe.weights, task.coverage.linears, stored)
    searched = [name for name, kind in types.items() if stored.get(name) is not kind]
    return searched if any(types[name] is INT4 for name in searched) else []


class _Run:
    """Distillation into a student, and its judge. figure: name of the distance from the dense model."""

    def __init__(self, task: Task, student: Student, settings: MemorySettings) -> None:
        self._task = task
        self._pool, windows = task.text.held_out()
        self._windows = windows[: max(_LEAST, math.ceil(_JUDGED / task.recipe.length))]
        self._device = usable_device(task.recipe.device)
        self.bf16 = task.bf16
        self._objective = Distillation(
            student.teacher(torch.bfloat16 if settings.teacher_bf16 else torch.float32),
            student.parameters(),
            encoder=task.checkpoint.architecture.encoder,
            teacher_bf16=settings.teacher_bf16,
        )
        self.figure = self._objective.figure

    def train(self, student: Student, what: str, store: WeightStore, schedule: Schedule) -> TrainReport:
        """Train, and put the trained tensors in the store; what: name of the run, and of its folder."""
        task = self._task
        report = train(
            student.model, self._objective, self._pool, schedule, task.scratch / what, task.progress,
            what=what, note=task.note,
        )  # fmt: skip
        student.save(store)
        PartialState().wait_for_everyone()
        return report

    @torch.no_grad()
    def judge(self, model: Any) -> float:
        """Returns the distance of a model from the dense model, on held-out text."""
        model.to(self._device).eval()
        distances = []
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.bf16):
            for window in self._windows:
                _, figures = self._objective.loss(model, torch.from_numpy(window)[None].to(self._device))
                distances.append(figures[self.figure])
        return sum(distances) / len(distances)


def _memory_settings(task: Task, masks: Mapping[str, LinearMask], room: int) -> MemorySettings | None:
    """Returns settings with which training fits into `room` bytes, or None."""
    recipe = task.recipe
    bf16 = task.bf16
    need = memory_need(task.checkpoint, masks, recipe.batch * recipe.length)
    first = MemorySettings("adamw", teacher_bf16=bf16, gradient_checkpointing=False)
    return first_that_fits(need, first, room, bf16=bf16, note=task.note)


def default_steps(weights: int, tokens: int, device: str) -> int:
    """Returns the number of steps of a repair without a budget.

    weights: of the model; tokens: per step; device: type of the device. A model of at most 135M weights trains on 65,536
    tokens, which takes SmolLM2-135M about 6 minutes on 2 cores. With the square root of the weights grow the tokens on a
    GPU, to 0.47M for 7B, and the time on a CPU, to three quarters of an hour for 7B, which is time for 9,100 tokens.
    """
    size = math.sqrt(max(1.0, weights / _WEIGHTS))
    return math.ceil(_TOKENS * (1 / size if device == "cpu" else size) / tokens)


def default_rate(distance: float) -> float:
    """Returns the learning rate of a repair that is given none.

    distance: from the dense model before the repair, the KL in nats a token or the squared error of hidden states over their
    squared length.
    """
    return _LEARNING_RATE * min(1.0, distance / _FAR)


def _schedule(task: Task, settings: MemorySettings, share: float, learning_rate: float) -> Schedule:
    recipe, steps = task.recipe, task.recipe.repair_steps
    if steps is None and recipe.repair_minutes is None:
        weights = memory_need(task.checkpoint, {}, 0).weights
        steps = default_steps(weights, recipe.batch * recipe.length, usable_device(recipe.device).type)
    return Schedule.of(
        recipe,
        steps=None if steps is None else round(steps * share),
        minutes=None if recipe.repair_minutes is None else recipe.repair_minutes * share,
        learning_rate=learning_rate,
        decay="linear",
        warmup=_WARMUP,
        betas=_BETAS,
        gradient_checkpointing=settings.gradient_checkpointing,
        optimizer=settings.optimizer,
    )


def _record(
    task: Task, report: TrainReport, run: _Run, schedule: Schedule, before: float, after: float
) -> RepairRecord:
    figure, kept = run.figure, after < before
    task.note(
        f"repair: {report.steps} steps, {report.tokens:,} tokens in {report.seconds:.0f} s; {figure} to the dense"
        f" model, on the windows that judge it, {before:.4g} before, {after:.4g} after"
        f"{'' if kept else ', which is not better: the weights stay as they were'}"
    )
    figures: dict[str, Any] = {f"{figure}_first": before, f"{figure}_last": after}
    return RepairRecord(
        method="distill",
        kept=kept,
        steps=report.steps,
        tokens=report.tokens,
        learning_rate=schedule.learning_rate,
        batch=schedule.batch,
        optimizer=schedule.optimizer,
        precision="bf16" if run.bf16 else "fp32",
        **figures,
    )
