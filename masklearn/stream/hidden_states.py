"""Keeps the hidden states of all windows between blocks, in memory if they fit, else in a memory-mapped file; and a pass
over blocks on the disk, so that an interrupted pass resumes at the block it was in.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from masklearn.base.device import available_memory, usable_device
from masklearn.base.durable import flush_folder
from masklearn.base.errors import MaskLearnError
from masklearn.base.processes import process_rank
from masklearn.base.shard import Shard, dtype_code, write_shard
from masklearn.feed import Arrays
from masklearn.model.store import as_array, as_tensor
from masklearn.task import Task

# Largest share of a device's or the host's free memory to take: blocks and Hessians need room too.
_SHARE = 0.25


class HiddenStates(Sequence[Tensor]):
    """Sequence of a tensor per window, all of the same shape and type. Assigning an item replaces it.

    They are kept on the device if they take at most a quarter of its free memory, else on the host if they take at most
    a quarter of its free memory, else in a file. All three keep full precision, so that results do not depend on the
    machine's memory. The file has no name and vanishes with the object.
    """

    def __init__(self, first: Tensor, count: int, store: Path | None = None) -> None:
        """first: window 0, on the device; count: number of windows; store: folder for the file, None for the system's
        temporary folder.

        Raises MaskLearnError if the file does not fit on the disk.
        """
        self._device = first.device
        homes = [at for at in (self._device, torch.device("cpu")) if _fits(first.nbytes * count, at)]
        self._home = homes[0] if homes else torch.device("cpu")
        self._mapped = None if homes else _mapped(first, count, store)
        self._kept: list[Tensor | None] = [None] * count
        self[0] = first

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]  # nobody takes slices
        if self._mapped is not None:
            window: Tensor | None = self._mapped[index].clone()
        else:
            window = self._kept[index]
        assert window is not None, "a window is read before it is there"
        return window.to(self._device)

    def __setitem__(self, index: int, value: Tensor) -> None:
        if self._mapped is not None:
            self._mapped[index].copy_(value)
        else:
            self._kept[index] = value.to(self._home)


def _fits(size: int, device: torch.device) -> bool:
    return size <= _SHARE * available_memory(device)


def _mapped(first: Tensor, count: int, store: Path | None) -> Tensor:
    """Returns a tensor `[count, *shape]` in a file without a name."""
    size = first.nbytes * count
    check_space(size, store)
    handle, name = tempfile.mkstemp(dir=store, prefix="hidden-")
    try:
        os.posix_fallocate(handle, 0, size)  # writing to a sparse file kills the process if the disk is full
        mapped = torch.from_file(name, shared=True, size=first.numel() * count, dtype=first.dtype)
    finally:
        os.close(handle)
        Path(name).unlink()
    return mapped.view(count, *first.shape)


def check_space(
    size: int,
    store: Path | None,
    what: str = "hidden states of the windows",
    fix: str = "Make room, or give fewer or shorter windows.",
) -> None:
    """Create the folder. Raises MaskLearnError if it has no room for files of `size` bytes.

    store: the folder, None for the system's temporary folder; what: what the files hold; fix: what the user can do.
    """
    if store is not None:
        store.mkdir(parents=True, exist_ok=True)
    folder = store or Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if free < size:
        raise MaskLearnError(
            f"There is no space for the {what}",
            f"They take {size / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB.",
            fix,
        )


_IDENTITY, _LINEARS = "identity", "linears"
_COMPLETE = "complete"
_CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class PassCheckpoints:
    """Results of the finished blocks of a pass, and the state with which its next block begins: a tensor per window.

    After a block, first the state of the next block is written, then the file of this block's results, and then the
    state of this block is deleted. A kill at any moment therefore leaves whole blocks and the next block's state, and the
    result has the same bytes as without an interruption.

    results: arrays by linear, of all finished blocks; done: number of finished blocks; complete: True if all blocks are
    finished.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        what: str,
        note: Callable[[str], object],
        check: Callable[[], object],
        *,
        keep_states: bool = False,
    ) -> None:
        """folder: of this pass only; identity: fingerprint, of types that JSON can hold, of everything that the results
        depend on: files of another pass are deleted. what: name of the pass for the user; note: called with a line when
        the pass resumes; check: called before a block is saved, raises an error if inputs of the results were changed
        meanwhile; keep_states: True to keep the states of all blocks until `close`, for a pass back through them.
        """
        self._folder, self._what, self._note, self._keeps = folder, what, note, keep_states
        self._check = check
        self._identity = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._added: dict[str, Arrays] = {}
        self.results: dict[str, Arrays] = {}
        self.done = 0
        self.complete = False
        try:
            self._restore()
        except MaskLearnError:  # a damaged file
            self.forget()

    def start(self, state: HiddenStates, blocks: int) -> int:
        """Begin a pass over `blocks` blocks, or resume it. Returns the number of finished blocks.

        state: of the first block; it is overwritten with the next block's state. Raises MaskLearnError if the disk has
        no room for the states.
        """
        if self.complete:
            return blocks
        files = blocks - self.done + 1 if self._keeps else 2
        check_space(files * len(state) * state[0].nbytes, self._folder)
        if self.done:
            self.load(self.done, state)
        if 0 < self.done < blocks:
            self._note(f"{self._what} resumes at block {self.done + 1} of {blocks}")
        if not self.done and self._keeps:
            self._write_state(0, state)
        return self.done

    def add(self, linear: str, arrays: Arrays) -> None:
        self._added[linear] = arrays

    def finish(self, state: HiddenStates | None) -> None:
        """Save the current block. state: of the next block, None if there is no next block and the pass is complete."""
        self._check()
        if state is not None:
            self._write_state(self.done + 1, state)
        self._write_results(last=state is None)
        self.results |= self._added
        self._added = {}
        if not self._keeps:
            self._state_file(self.done).unlink(missing_ok=True)
        self.done += 1
        if state is None:
            self.close()

    def close(self) -> None:
        """Mark the pass as complete, and delete its states. The results stay."""
        (self._folder / _COMPLETE).touch()
        flush_folder(self._folder)
        self.complete = True
        self._delete_states()

    def forget(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self.results, self.done, self.complete = {}, 0, False

    def load(self, block: int, state: HiddenStates) -> None:
        """Read the state with which a block begins into `state`."""
        shard = Shard.open(self._state_file(block))
        for i in range(len(state)):
            state[i] = as_tensor(shard.read(str(i)))

    def _restore(self) -> None:
        """Read the results of the finished blocks. Files of another pass, or without the next block's state, are deleted."""
        while (file := self._results_file(self.done)).is_file():
            shard = Shard.open(file)
            if shard.metadata.get(_IDENTITY) != self._identity:
                self.forget()
                return
            for linear in json.loads(shard.metadata[_LINEARS]):
                keys = [key for key in shard.tensors if key.rpartition("/")[0] == linear]
                self.results[linear] = {key.rpartition("/")[2]: shard.read(key) for key in keys}
            self.done += 1
            self.complete = _COMPLETE in shard.metadata or (self._folder / _COMPLETE).is_file()
        if self.complete:
            self._delete_states()  # a kill may have left them
        elif self.done:
            if self._state_file(self.done).is_file():
                Shard.open(self._state_file(self.done))  # checks its size
            else:
                self.forget()

    def _delete_states(self) -> None:
        for file in self._folder.glob("state-*"):
            file.unlink()

    def _write_results(self, *, last: bool) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        arrays = {f"{name}/{key}": array for name, of in self._added.items() for key, array in of.items()}
        specs = {key: (dtype_code(array.dtype), array.shape) for key, array in arrays.items()}
        about = {_IDENTITY: self._identity, _LINEARS: json.dumps(list(self._added))}
        about |= {_COMPLETE: ""} if last else {}
        write_shard(self._results_file(self.done), specs, lambda key: arrays[key], about)

    def _write_state(self, block: int, state: HiddenStates) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        code = _CODES[state[0].dtype]
        specs = {str(i): (code, tuple(window.shape)) for i, window in enumerate(state)}
        write_shard(self._state_file(block), specs, lambda key: as_array(state[int(key)], code), {})

    def _results_file(self, block: int) -> Path:
        return self._folder / f"checkpoint-{block:05d}.safetensors"

    def _state_file(self, block: int) -> Path:
        return self._folder / f"state-{block:05d}.safetensors"


def checkpoints_of(
    task: Task, folder: Path, what: str, key: str, windows: NDArray[np.int64], *, keep_states: bool = False
) -> PassCheckpoints:
    """Returns the checkpoints of a pass of a task. Of several processes that learn together, each has its own.

    folder: of this pass only; key: name of what the pass computes; windows: its token ids. `PassCheckpoints` describes the
    other arguments.
    """
    identity = {
        "version": importlib.metadata.version("patch-compile"),
        "what": what,
        "key": key,
        "model": task.checkpoint.fingerprint(),
        "linears": dict(task.coverage.linears),
        "recipe": task.recipe.model_dump(mode="json"),
        "text": hashlib.sha256(windows.tobytes()).hexdigest(),
        "device": usable_device(task.recipe.device).type,
    }
    ours = folder / f"process-{process_rank()}"
    check = task.checkpoint.check_unchanged
    return PassCheckpoints(ours, identity, what, task.note, check, keep_states=keep_states)
