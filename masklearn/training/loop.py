"""One training loop for repair and for the gradient methods, on Hugging Face accelerate."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, set_seed
from torch import Tensor, nn

from masklearn.checkpoint.precision import computes_in_bf16
from masklearn.device import usable_device
from masklearn.errors import PatchCompileError
from masklearn.progress import Progress
from masklearn.text.calibrate import TokenPool
from masklearn.text.windows import too_many_passes
from masklearn.training.checkpoints import Checkpoints, History
from masklearn.training.optimizers import optimizer_of
from masklearn.training.schedule import Schedule

__all__ = ["Objective", "Schedule", "TrainReport", "train"]

_SMOOTHED = 0.1  # share of the steps that a report's first and last figures are the means of


class Objective(Protocol):
    """What is trained, and towards what."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of the model's parameters for a torch optimizer; all other parameters are frozen.

        A group may have a learning rate `lr` of its own. Called once, before the model is moved or wrapped.
        """

    def loss(self, model: nn.Module, ids: Tensor) -> tuple[Tensor, Mapping[str, float]]:
        """The scalar loss of token ids `[batch, length]`, and figures for the progress line and the report.

        Runs under autocast where the schedule's precision says so.
        """

    def begin(self, step: int, fraction: float) -> None:
        """Before a step; `fraction` (0 ... 1) of the budget is used."""

    def end(self, step: int) -> None:
        """After a step of the optimizer."""


@dataclass(frozen=True)
class TrainReport:
    """steps done; tokens they saw, over all processes; seconds of training, those before an interruption included;
    first, last: each figure of the objective and the `loss`, means of the first and the last tenth of the steps; empty
    when the budget was spent already.
    """

    steps: int
    tokens: int
    seconds: float
    first: Mapping[str, float]
    last: Mapping[str, float]


def train(
    model: nn.Module,
    objective: Objective,
    pool: TokenPool,
    schedule: Schedule,
    folder: Path,
    progress: Progress,
    *,
    what: str,
    note: Callable[[str], object] | None = None,
) -> TrainReport:
    """Train `model` in place and return what it took; afterwards it lies on the device that it was trained on.

    folder: holds the newest checkpoint; training that was killed there goes on from it and, with a budget in
    steps, ends in the same parameters bit for bit; a checkpoint of another start, text or schedule is discarded.
    Under `accelerate launch` every process takes `schedule.batch` windows of a step (DDP, or FSDP of version 2);
    parameters are then DTensors where FSDP shards them. progress: called after each step, with `what` and the
    running loss; steps are counted, or seconds when the budget has minutes. note: told where the text is gone over
    many times, before training where its budget has steps alone.

    PatchCompileError: the loss is not finite; the device cannot be used.
    """
    set_seed(schedule.seed)
    accelerator = _accelerator(schedule)
    identity = _identity(model, pool, schedule, what, accelerator)
    run = _Run(accelerator, model, objective, schedule)
    checkpoints = Checkpoints(folder, accelerator, identity)
    history = checkpoints.restore()
    batches = _batches(pool, schedule, accelerator, skip=history.steps)
    if schedule.minutes is None:
        _note_passes(note, what, pool, schedule.steps or 0, schedule, accelerator)
    started = time.monotonic() - history.seconds
    while (used := _used(schedule, history.steps, _agreed(started, accelerator))) < 1.0:
        history.add(run.step(history.steps, used, next(batches)), time.monotonic() - started)
        _show(progress, f"{what}: {_line(history.running(), run.shown)}", schedule, history)
        if history.steps % schedule.checkpoint_every == 0:
            checkpoints.save(history)
    checkpoints.save(history)
    if schedule.minutes is not None:
        _note_passes(note, what, pool, history.steps, schedule, accelerator)
    accelerator.free_memory()
    tokens = history.steps * schedule.batch * accelerator.num_processes * pool.windows.shape[1]
    return TrainReport(
        history.steps, tokens, history.seconds, history.mean(_SMOOTHED), history.mean(_SMOOTHED, last=True)
    )


class _Step(nn.Module):
    """Model and objective as the one module whose forward is a loss: DDP and FSDP act around a forward."""

    def __init__(self, model: nn.Module, objective: Objective, bf16: bool) -> None:
        super().__init__()
        self.model = model
        self._objective = objective
        self._bf16 = bf16
        # Accelerate wraps the modules of these classes one by one when it shards.
        self._no_split_modules = getattr(model, "_no_split_modules", None)

    def forward(self, ids: Tensor) -> tuple[Tensor, Mapping[str, float]]:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self._bf16):
            return self._objective.loss(self.model, ids)


class _Run:
    """The wrapped model and its optimizer. shown: figures that the objective wants seen, its loss if it names none."""

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, objective: Objective, schedule: Schedule
    ) -> None:
        self._accelerator, self._objective, self._schedule = accelerator, objective, schedule
        groups = objective.parameter_groups()
        _freeze_others(model, groups)
        if schedule.gradient_checkpointing:
            _enable_checkpointing(model)
        model.train()
        optimizer = optimizer_of(groups, schedule)
        step = _Step(model, objective, computes_in_bf16(schedule.precision, accelerator.device))
        self._step, self._optimizer = accelerator.prepare(step, optimizer)
        for group in self._optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self.shown: tuple[str, ...] = ("loss",)

    def step(self, number: int, used: float, windows: Tensor) -> dict[str, float]:
        """One step of the optimizer; returns its figures, means over all processes."""
        self._objective.begin(number, used)
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self._schedule.factor(number, used)
        loss, figures = self._step(windows.to(self._accelerator.device))
        self._accelerator.backward(loss)
        self.shown = tuple(figures) or self.shown
        norm = self._clip()
        means = _means({"loss": float(loss.detach()), **figures}, self._accelerator)
        if not math.isfinite(means["loss"]) or not math.isfinite(norm):
            raise PatchCompileError(
                f"Training diverged at step {number + 1}",
                f"The loss is {means['loss']}, the norm of its gradient {norm}.",
                f"Give a --learning-rate below {self._schedule.learning_rate:g}, or --precision fp32.",
            )
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._objective.end(number)
        return means

    def _clip(self) -> float:
        if self._schedule.clip is None:
            return 0.0
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        return float(self._accelerator.clip_grad_norm_(parameters, self._schedule.clip))


def _accelerator(schedule: Schedule) -> Accelerator:
    device = usable_device(schedule.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    # Precision is `_Step`'s: accelerate keeps one for the life of a process.
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        ],
    )
    if accelerator.distributed_type is DistributedType.FSDP and not accelerator.is_fsdp2:
        raise PatchCompileError(
            "FSDP of version 1 is asked for",
            "Frozen and trained weights lie side by side in a block, which it cannot shard apart.",
            "Set fsdp_version: 2 in the configuration of accelerate.",
        )
    return accelerator


def _enable_checkpointing(model: Any) -> None:
    """transformers 5.2x renamed the method."""
    new = getattr(model, "activation_checkpointing_enable", None)
    (new or model.gradient_checkpointing_enable)({"use_reentrant": False})


def _freeze_others(model: nn.Module, groups: list[dict[str, Any]]) -> None:
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)


def _identity(
    model: nn.Module, pool: TokenPool, schedule: Schedule, what: str, accelerator: Accelerator
) -> dict[str, Any]:
    """What a checkpoint must agree in to be gone on from: settings, text, and the values that training starts from."""
    settings = {field.name: getattr(schedule, field.name) for field in fields(schedule)}
    tensors = [*model.named_parameters(), *model.named_buffers()]
    start = {name: _bit_sum(tensor) for name, tensor in tensors}
    text = hashlib.sha256(pool.windows.tobytes()).hexdigest()
    return {"what": what, "processes": accelerator.num_processes, "text": text, "start": start} | settings


def _bit_sum(tensor: Tensor) -> int:
    """Sum of a tensor's bytes, weighted by their place in an element: cheaper than a hash, and no order matters."""
    raw = tensor.detach().contiguous().view(-1)
    whole = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}[raw.element_size()]
    return int(raw.view(whole).sum(dtype=torch.int64))


def _batches(pool: TokenPool, schedule: Schedule, accelerator: Accelerator, skip: int) -> Iterator[Tensor]:
    """This process's windows of every step, from step `skip` on."""
    size, rank = schedule.batch, accelerator.process_index
    whole = pool.batches(size * accelerator.num_processes, seed=schedule.seed, skip=skip)
    return (torch.from_numpy(batch[rank * size : (rank + 1) * size]) for batch in whole)


def _note_passes(
    note: Callable[[str], object] | None,
    what: str,
    pool: TokenPool,
    steps: int,
    schedule: Schedule,
    accelerator: Accelerator,
) -> None:
    seen = steps * schedule.batch * accelerator.num_processes
    line = too_many_passes(what, seen, *pool.windows.shape)
    if note is not None and line is not None and accelerator.is_main_process:
        note(line)


def _used(schedule: Schedule, steps: int, seconds: float) -> float:
    """Share of the budget that is used, 1.0 when it is spent."""
    shares = [0.0]
    if schedule.steps is not None:
        shares.append(steps / schedule.steps if schedule.steps else 1.0)
    if schedule.minutes is not None:
        shares.append(seconds / (60.0 * schedule.minutes))
    return min(max(shares), 1.0)


def _agreed(started: float, accelerator: Accelerator) -> float:
    """Seconds of training by the main process's clock: all processes must stop at the same step."""
    seconds = torch.tensor([time.monotonic() - started], dtype=torch.float64)
    if accelerator.num_processes > 1:
        seconds = accelerator.gather(seconds.to(accelerator.device))
    return float(seconds[0])


def _means(figures: Mapping[str, float], accelerator: Accelerator) -> dict[str, float]:
    if accelerator.num_processes == 1:
        return dict(figures)
    values = torch.tensor([list(figures.values())], dtype=torch.float32, device=accelerator.device)
    return dict(zip(figures, accelerator.gather(values).mean(dim=0).tolist(), strict=True))


def _line(figures: Mapping[str, float], shown: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {figures[name]:.4g}" for name in shown)


def _show(progress: Progress, line: str, schedule: Schedule, history: History) -> None:
    if schedule.minutes is None:
        assert schedule.steps is not None
        progress(line, history.steps, schedule.steps)
    else:
        total = round(60 * schedule.minutes)
        progress(line, min(round(history.seconds), total), total)
