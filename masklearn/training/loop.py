"""Training loop of repair and of the gradient methods, on Hugging Face accelerate."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, set_seed
from torch import Tensor, nn

from masklearn.base.device import usable_device
from masklearn.base.errors import MaskLearnError
from masklearn.base.progress import OnStep
from masklearn.base.threads import total
from masklearn.model.modules import computes_in_bf16
from masklearn.recipe import LearnRecipe
from masklearn.text.calibrate import TokenPool, too_many_passes
from masklearn.training.checkpoints import Checkpoints, History


@dataclass(frozen=True)
class Schedule:
    """Settings of a training run.

    steps, minutes: the budget; at least one of both is given, and the first to end ends the run; batch: windows per step in
    each process; decay: curve of the learning rate, which is 0 at the end of the budget; warmup: number of steps in which
    the learning rate rises; betas: of AdamW; device: None for CUDA if there is one, else the CPU.
    """

    steps: int | None
    minutes: float | None
    batch: int
    learning_rate: float
    decay: Literal["linear", "cosine"]
    warmup: int
    betas: tuple[float, float]
    seed: int
    gradient_checkpointing: bool = False
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    device: str | None = None

    @classmethod
    def of(cls, recipe: LearnRecipe, **settings: Any) -> "Schedule":
        """Returns a schedule with the recipe's batch, seed and device; settings: all others."""
        return cls(batch=recipe.batch, seed=recipe.seed, device=recipe.device, **settings)

    def factor(self, step: int, used: float) -> float:
        """Returns the factor of the learning rate in a step, when the share `used` (0 ... 1) of the budget is spent."""
        decay = 1.0 - used if self.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * used))
        return decay * min(1.0, (step + 1) / (self.warmup + 1))


CHECKPOINT_EVERY = 50  # steps
_LARGEST_NORM = 1.0  # of the gradient
_SMALLEST = 1e-3  # lower bound of a parameter's RMS in Adafactor


def _optimizer_of(groups: list[dict[str, Any]], schedule: Schedule) -> torch.optim.Optimizer:
    if schedule.optimizer == "adamw":
        # fused: one pass over the tensors of a weight instead of a dozen, which is 5 times faster on a CPU.
        return torch.optim.AdamW(
            groups, lr=schedule.learning_rate, betas=schedule.betas, weight_decay=0.0, fused=True
        )
    split = [
        {**group, "params": [parameter], "lr": _relative(group.get("lr", schedule.learning_rate), parameter)}
        for group in groups
        for parameter in group["params"]
    ]
    return torch.optim.Adafactor(split, lr=schedule.learning_rate, weight_decay=0.0)


def _relative(learning_rate: float, parameter: Tensor) -> float:
    """Returns Adafactor's learning rate for which its first step is as long as Adam's with `learning_rate`.

    Adafactor's steps are relative to the parameter's RMS (arXiv 1804.04235, algorithm 5).
    """
    rms = float((total(parameter.detach().float().square()) / parameter.numel()).sqrt())
    return learning_rate / max(rms, _SMALLEST)


_SMOOTHED = 0.1  # a report's first and last figures are means over this share of the steps


class Objective(Protocol):
    """Loss of a training run and the parameters that it trains."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns groups of the model's parameters for a torch optimizer. All other parameters are frozen.

        A group may have its own learning rate `lr`. Called once, before the model is moved or wrapped.
        """

    def loss(self, model: nn.Module, ids: Tensor) -> tuple[Tensor, Mapping[str, float]]:
        """Returns the scalar loss of token ids `[batch, length]`, and figures for the progress line and the report.

        It runs under autocast if the device has bf16 (`computes_in_bf16`).
        """

    def begin(self, step: int, fraction: float) -> None:
        """Called before each step; fraction: the used share (0 ... 1) of the budget."""


@dataclass(frozen=True)
class TrainReport:
    """Figures of a training run.

    steps: number of steps; tokens: number of tokens trained on, over all processes; seconds: duration, with the time
    before an interruption; first, last: the `loss` and each figure of the objective, as means over the first and the
    last tenth of the steps. They are empty if the run had no steps.
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
    progress: OnStep,
    *,
    what: str,
    note: Callable[[str], object],
) -> TrainReport:
    """Train `model` in place and return the run's figures. The model stays on the device of the training.

    Under `accelerate launch` every process takes `schedule.batch` windows per step, with DDP or with FSDP of version 2;
    FSDP makes the parameters DTensors.

    folder: holds the newest checkpoint. Interrupted training resumes from it and, with a budget in steps, ends in the same
    parameters bit for bit. A checkpoint of other initial values, another text or another schedule is deleted.
    progress: called after each step with `what` and the running loss; it counts steps, or seconds if the budget has
    minutes. note: called with a line if the run passes over its text too many times; with a budget only in steps it is
    called before training, else after it.

    Raises MaskLearnError if the loss or the gradient is not finite, the device can't be used, or FSDP of version 1 is
    configured.
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
        if history.steps % CHECKPOINT_EVERY == 0:
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
    """Module whose forward pass is model and loss: DDP and FSDP act on calls of the module that they wrap."""

    def __init__(self, model: nn.Module, objective: Objective, bf16: bool) -> None:
        super().__init__()
        self.model = model
        self._objective = objective
        self._bf16 = bf16
        # Accelerate shards each module of these classes separately.
        self._no_split_modules = getattr(model, "_no_split_modules", None)

    def forward(self, ids: Tensor) -> tuple[Tensor, Mapping[str, float]]:
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self._bf16):
            return self._objective.loss(self.model, ids)


class _Run:
    """Wrapped model and optimizer of a run. shown: names of the objective's figures, or `loss` if it has none."""

    def __init__(
        self, accelerator: Accelerator, model: Any, objective: Objective, schedule: Schedule
    ) -> None:
        self._accelerator, self._objective, self._schedule = accelerator, objective, schedule
        groups = objective.parameter_groups()
        trained = {id(parameter) for group in groups for parameter in group["params"]}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        if schedule.gradient_checkpointing:  # transformers 5.2x renamed the method for it
            enable: Any = getattr(model, "activation_checkpointing_enable", None)
            (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
        model.train()
        optimizer = _optimizer_of(groups, schedule)
        step = _Step(model, objective, computes_in_bf16(accelerator.device))
        self._step, self._optimizer = accelerator.prepare(step, optimizer)
        for group in self._optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self.shown: tuple[str, ...] = ("loss",)

    def step(self, number: int, used: float, windows: Tensor) -> dict[str, float]:
        """Take a step of the optimizer. Returns its figures as means over all processes."""
        self._objective.begin(number, used)
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self._schedule.factor(number, used)
        loss, figures = self._step(windows.to(self._accelerator.device))
        self._accelerator.backward(loss)
        self.shown = tuple(figures) or self.shown
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        norm = float(self._accelerator.clip_grad_norm_(parameters, _LARGEST_NORM))
        means = _means({"loss": float(loss.detach()), **figures}, self._accelerator)
        if not math.isfinite(means["loss"]) or not math.isfinite(norm):
            raise MaskLearnError(
                f"Training diverged at step {number + 1}",
                f"The loss is {means['loss']}, the norm of its gradient {norm}.",
                f"Set learning_rate below {self._schedule.learning_rate:g} in a recipe, and give it to `build --recipe`.",
            )
        self._optimizer.step()
        self._optimizer.zero_grad()
        return means


def _accelerator(schedule: Schedule) -> Accelerator:
    device = usable_device(schedule.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    # `_Step` sets the precision, because accelerate cannot change its own within a process.
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        ],
    )
    if accelerator.distributed_type is DistributedType.FSDP and not accelerator.is_fsdp2:
        raise MaskLearnError(
            "FSDP of version 1 is asked for",
            "Frozen and trained weights lie side by side in a block, which it cannot shard apart.",
            "Set fsdp_version: 2 in the configuration of accelerate.",
        )
    return accelerator


def _identity(
    model: nn.Module, pool: TokenPool, schedule: Schedule, what: str, accelerator: Accelerator
) -> dict[str, Any]:
    """Fingerprint of everything a checkpoint must match before training resumes from it: settings, text, initial values."""
    settings = {field.name: getattr(schedule, field.name) for field in fields(schedule)}
    tensors = [*model.named_parameters(), *model.named_buffers()]
    start = {name: _bit_sum(tensor) for name, tensor in tensors}
    text = hashlib.sha256(pool.windows.tobytes()).hexdigest()
    return {"what": what, "processes": accelerator.num_processes, "text": text, "start": start} | settings


def _bit_sum(tensor: Tensor) -> int:
    """Returns the sum of a tensor's elements, read as integers. It is cheaper than a hash and independent of order."""
    raw = tensor.detach().contiguous().view(-1)
    whole = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}[raw.element_size()]
    return int(raw.view(whole).sum(dtype=torch.int64))


def _batches(pool: TokenPool, schedule: Schedule, accelerator: Accelerator, skip: int) -> Iterator[Tensor]:
    """Yield this process's windows of each step, from step `skip` on."""
    size, rank = schedule.batch, accelerator.process_index
    whole = pool.batches(size * accelerator.num_processes, seed=schedule.seed, skip=skip)
    return (torch.from_numpy(batch[rank * size : (rank + 1) * size]) for batch in whole)


def _note_passes(
    note: Callable[[str], object],
    what: str,
    pool: TokenPool,
    steps: int,
    schedule: Schedule,
    accelerator: Accelerator,
) -> None:
    seen = steps * schedule.batch * accelerator.num_processes
    line = too_many_passes(what, seen, *pool.windows.shape)
    if line is not None and accelerator.is_main_process:
        note(line)


def _used(schedule: Schedule, steps: int, seconds: float) -> float:
    """Returns the used share of the budget, 0 ... 1."""
    shares = [0.0]
    if schedule.steps is not None:
        shares.append(steps / schedule.steps if schedule.steps else 1.0)
    if schedule.minutes is not None:
        shares.append(seconds / (60.0 * schedule.minutes))
    return min(max(shares), 1.0)


def _agreed(started: float, accelerator: Accelerator) -> float:
    """Returns the seconds of training by the main process's clock, so that all processes stop at the same step."""
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


def _show(progress: OnStep, line: str, schedule: Schedule, history: History) -> None:
    if schedule.minutes is None:
        assert schedule.steps is not None
        progress(line, history.steps, schedule.steps)
    else:
        total = round(60 * schedule.minutes)
        progress(line, min(round(history.seconds), total), total)
