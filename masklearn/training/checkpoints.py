"""Saves and restores checkpoints of a training run through accelerate. A crash never leaves half a checkpoint."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors import SafetensorError

from masklearn.base.durable import flush_folder, flush_tree, write_whole
from masklearn.base.errors import MaskLearnError

_FILE = "run.json"
# Errors of the disk, in the words of torch and of safetensors. Other errors have the same classes.
_OF_THE_DISK = ("inline_container", "PytorchStreamReader", "iostream error", "I/O error", "IoError")
_RUNNING = 10  # the figures of a progress line are means over this many steps


class History:
    """Seconds of a run so far, and the figures of every step."""

    def __init__(self, seconds: float = 0.0, figures: list[dict[str, float]] | None = None) -> None:
        self.seconds = seconds
        self.figures = figures or []

    @property
    def steps(self) -> int:
        return len(self.figures)

    def add(self, figures: Mapping[str, float], seconds: float) -> None:
        """Add a step's figures; seconds: of the run up to the end of the step."""
        self.figures.append(dict(figures))
        self.seconds = seconds

    def running(self) -> dict[str, float]:
        return _means(self.figures[-_RUNNING:])

    def mean(self, share: float, *, last: bool = False) -> dict[str, float]:
        """Returns each figure's mean over the first (or the last) `share` of the steps, at least one step."""
        count = max(1, round(share * self.steps))
        return _means(self.figures[-count:] if last else self.figures[:count])


class Checkpoints:
    """Keeps the newest state of a run in `folder/checkpoint-N`.

    A checkpoint is written to another folder and renamed when it is complete; then the previous checkpoint is deleted.
    identity: fingerprint, of types that JSON can hold, that a checkpoint must match; others are deleted.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, identity: Mapping[str, Any]) -> None:
        self._folder, self._accelerator = folder, accelerator
        self._identity = json.loads(json.dumps(identity))
        self._sharded = accelerator.distributed_type is DistributedType.FSDP
        self._saved = 0
        if not self._sharded:
            accelerator.register_save_state_pre_hook(_drop_frozen)

    def restore(self) -> History:
        """Load the newest checkpoint with its random states. Returns an empty history if no checkpoint matches.

        Raises MaskLearnError for a checkpoint that the disk does not give back.
        """
        newest = max(self._folder.glob("checkpoint-*"), default=None)
        content = json.loads((newest / _FILE).read_text()) if newest else {}
        if newest is None or content["identity"] != self._identity:
            self._accelerator.wait_for_everyone()
            if self._accelerator.is_main_process:
                shutil.rmtree(self._folder, ignore_errors=True)
            return History()
        # Not strict, because checkpoints hold no frozen weights.
        with _errors_of_the_disk("read", newest):
            self._accelerator.load_state(str(newest), **({} if self._sharded else {"strict": False}))
        self._saved = len(content["figures"])
        return History(content["seconds"], content["figures"])

    def save(self, history: History) -> None:
        """Save the run's state if it is new. A kill at any moment leaves this checkpoint or the previous one.

        Raises MaskLearnError if the disk does not take it.
        """
        if history.steps == self._saved:
            return
        partial = self._folder / "partial"
        if self._accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self._accelerator.wait_for_everyone()
        with _errors_of_the_disk("written", partial):
            self._accelerator.save_state(str(partial))
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            self._publish(partial, history)
        self._accelerator.wait_for_everyone()
        self._saved = history.steps

    def _publish(self, partial: Path, history: History) -> None:
        content = {"identity": self._identity, "seconds": history.seconds, "figures": history.figures}
        write_whole(partial / _FILE, json.dumps(content))
        flush_tree(partial)
        older = list(self._folder.glob("checkpoint-*"))
        # Names sort by number: a kill before the older checkpoint is deleted leaves two, and `restore` takes the last.
        partial.rename(self._folder / f"checkpoint-{history.steps:08d}")
        flush_folder(self._folder)
        for folder in older:
            shutil.rmtree(folder)


@contextmanager
def _errors_of_the_disk(done: str, folder: Path) -> Iterator[None]:
    """Raise an error of the disk, for which torch and safetensors have no class of its own, as a MaskLearnError."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        why = str(error).splitlines()[0].rstrip(".")
        if not any(words in why for words in _OF_THE_DISK):
            raise
        raise MaskLearnError(
            f"The state of the training in {folder} cannot be {done}",
            f"{why}.",
            "Check the disk: its free space, and its health. `resume` continues from the last state that is whole.",
        ) from error


def _drop_frozen(models: list[Any], weights: list[dict[str, Any]], _folder: str) -> None:
    """Remove frozen weights from the state to save: they never change."""
    for model, state in zip(models, weights, strict=True):
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if not parameter.requires_grad:
                state.pop(name, None)


def _means(figures: list[dict[str, float]]) -> dict[str, float]:
    if not figures:
        return {}
    return {name: sum(step[name] for step in figures) / len(figures) for name in figures[0]}
