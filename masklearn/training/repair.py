"""Repair: trains the surviving weights end to end against the dense model, under fixed masks."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import PartialState

from masklearn.checkpoint.architectures import architecture_of
from masklearn.checkpoint.precision import computes_in_bf16
from masklearn.checkpoint.store import WeightStore
from masklearn.device import available_memory, usable_device
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.record import RepairRecord
from masklearn.recipe import LearnRecipe
from masklearn.task import Task
from masklearn.training.distillation import Distillation
from masklearn.training.loop import TrainReport, train
from masklearn.training.memory import Thrift, demand_of, fitting
from masklearn.training.schedule import Schedule
from masklearn.training.student import Student

__all__ = ["default_steps", "repair"]

# Measured on SmolLM2-135M in 80 steps: perplexity ends higher with 0.9e-4 and 6e-4 at ratio .25, and with 1.8e-4 at
# .35. The divergence ends a little lower with the lower rates.
_LEARNING_RATE = 3e-4
_BETAS = (0.9, 0.95)
_WARMUP = 5
# Repair without a budget trains on _TOKENS tokens if the model has at most _WEIGHTS weights; see `default_steps`.
_TOKENS = 2**16
_WEIGHTS = 135_000_000


def repair(
    task: Task, masks: Mapping[str, LinearMask], store: WeightStore, available: int | None = None
) -> RepairRecord:
    """Distil the dense model into the masked one, and put the trained tensors in `store`.

    The student starts from `task.checkpoint` with its new weights (`Student` says which parameters train). The teacher is
    the model of the same directory. The budget is the recipe's, or `default_steps` if it has none. An interrupted run
    resumes from `task.scratch / "repair"`.

    available: bytes of memory that repair may use, None for all free memory; `task.note` is told of every setting that
    does not fit into it.

    Returns a record with method "distill" and the run's figures, or with method "none" and the reason. It holds no times,
    so that equal runs have equal records. Raises PatchCompileError as `train`, `training_model` and `WeightStore.put` do.
    """
    recipe, device = task.recipe, usable_device(task.recipe.device)
    if recipe.repair_steps == 0:
        return RepairRecord(method="none", why="its budget is 0 steps")
    bf16 = computes_in_bf16(recipe.precision, device)
    demand = demand_of(task.checkpoint, masks, recipe.batch * recipe.length)
    first = Thrift("adamw", teacher_bf16=bf16, gradient_checkpointing=recipe.gradient_checkpointing)
    room = available_memory(device) if available is None else available
    thrift = fitting(demand, first, room, bf16=bf16, note=task.note)
    if thrift is None:
        task.note("repair is off: give a smaller --batch or --length, or a device with more memory")
        return RepairRecord(method="none", why=f"{room / 2**30:.1f} GiB of memory are too little to train in")
    schedule = _schedule(recipe, thrift, demand.weights)
    student = Student(task.checkpoint, masks)
    teacher = student.teacher(torch.bfloat16 if thrift.teacher_bf16 else torch.float32)
    objective = Distillation(
        teacher,
        student.parameters(),
        encoder=architecture_of(task.checkpoint).encoder,
        teacher_bf16=thrift.teacher_bf16,
        label_weight=recipe.label_weight,
    )
    folder = task.scratch / "repair"
    report = train(
        student.model, objective, task.text, schedule, folder, task.progress, what="repair", note=task.note
    )
    student.save(store)
    PartialState().wait_for_everyone()
    return _record(task, report, schedule, objective.figure, bf16=bf16)


def default_steps(weights: int, tokens: int) -> int:
    """Returns the number of steps of a repair without a budget; weights: of the model; tokens: per step.

    A model of at most 135M weights trains on 65,536 tokens, which takes SmolLM2-135M about 6 minutes on 2 cores. For
    larger models the tokens grow with the square root of the weights: 0.18M tokens for 1B weights, 0.47M for 7B.
    """
    return math.ceil(_TOKENS * math.sqrt(max(1.0, weights / _WEIGHTS)) / tokens)


def _schedule(recipe: LearnRecipe, thrift: Thrift, weights: int) -> Schedule:
    steps = recipe.repair_steps
    if steps is None and recipe.repair_minutes is None:
        steps = default_steps(weights, recipe.batch * recipe.length)
    return Schedule.of(
        recipe,
        steps=steps,
        minutes=recipe.repair_minutes,
        learning_rate=recipe.learning_rate or _LEARNING_RATE,
        decay="linear",
        warmup=_WARMUP,
        betas=_BETAS,
        gradient_checkpointing=thrift.gradient_checkpointing,
        optimizer=thrift.optimizer,
    )


def _record(task: Task, report: TrainReport, schedule: Schedule, figure: str, *, bf16: bool) -> RepairRecord:
    first, last = report.first[figure], report.last[figure]
    task.note(
        f"repair: {report.steps} steps, {report.tokens:,} tokens in {report.seconds:.0f} s;"
        f" {figure} to the dense model {first:.4g} at first, {last:.4g} at last"
    )
    figures: dict[str, Any] = {f"{figure}_first": first, f"{figure}_last": last}
    return RepairRecord(
        method="distill",
        steps=report.steps,
        tokens=report.tokens,
        learning_rate=schedule.learning_rate,
        label_weight=task.recipe.label_weight,
        batch=schedule.batch,
        optimizer=schedule.optimizer,
        precision="bf16" if bf16 else "fp32",
        **figures,
    )
