"""What blocks are made of: modules whose weights come and go, what they are called with, what enters the first."""

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from masklearn.checkpoint.architectures import Architecture, architecture_of, longest_window
from masklearn.checkpoint.checkpoint import Checkpoint
from masklearn.checkpoint.linears import read_tensor
from masklearn.checkpoint.models import meta_model
from masklearn.checkpoint.naming import checkpoint_name, linear_name
from masklearn.checkpoint.precision import keep_attention_in_fp32
from masklearn.errors import PatchCompileError
from masklearn.stream.hidden_states import HiddenStates
from masklearn.stream.logits import Softcap

__all__ = ["BlockModel", "Part"]


class Part:
    """Modules that are in memory together and run one after the other; without weights until `load`."""

    def __init__(
        self, model: "BlockModel", modules: Mapping[str, nn.Module], call: Mapping[str, Any]
    ) -> None:
        """modules: by module name; call: keyword arguments of the first of them besides the hidden states."""
        self.module = next(iter(modules.values())) if len(modules) == 1 else nn.Sequential(*modules.values())
        self.call = call
        self._model = model
        self._modules = modules

    @property
    def linears(self) -> dict[str, nn.Linear]:
        """The linears by checkpoint name."""
        return {
            linear_name(self._model.checkpoint, f"{prefix}.{name}" if name else prefix): linear
            for prefix, module in self._modules.items()
            for name, linear in module.named_modules()
            if isinstance(linear, nn.Linear)
        }

    def load(self, device: torch.device) -> None:
        """Read the weights, fp32."""
        for prefix, module in self._modules.items():
            self._model.load(module, prefix, device)

    def release(self) -> None:
        """Give the memory of the weights back."""
        for module in self._modules.values():
            _release(module)


@dataclass(frozen=True)
class _Calls:
    """hidden: what enters the first block, `[1, length, hidden]` each window; calls: keyword arguments by block."""

    hidden: HiddenStates
    calls: list[dict[str, Any]]


class BlockModel:
    """A checkpoint's model on the meta device, taken apart.

    hidden: what enters the first block; blocks: the blocks, in order; tail: final norm and output head, or an
    encoder's pooler, None where there is none.
    """

    hidden: HiddenStates
    blocks: list[Part]
    tail: Part | None

    def __init__(
        self,
        checkpoint: Checkpoint,
        windows: NDArray[np.int64],
        device: torch.device,
        store: Path | None = None,
    ) -> None:
        """store: a folder for hidden states that do not fit in memory, None for a temporary one."""
        self.checkpoint = checkpoint
        self.architecture = architecture_of(checkpoint)
        model: Any = meta_model(checkpoint)
        keep_attention_in_fp32(model)
        self._aliases = _aliases(model)
        started = self._start(model, windows, device, store)
        self.hidden = started.hidden
        blocks = model.get_submodule(self.architecture.blocks)
        self.blocks = [
            Part(self, {f"{self.architecture.blocks}.{i}": block}, call)
            for i, (block, call) in enumerate(zip(blocks, started.calls, strict=True))
        ]
        self.tail = self._tail(model)

    def needed(self, only: Collection[str] | None, *, head: bool) -> list[Part]:
        """The parts up to the last that holds one of the linears `only`; all blocks if None; all parts if `head`."""
        parts = [*self.blocks, *([self.tail] if self.tail else [])]
        if head:
            return parts
        if only is None:
            return self.blocks
        wanted = [i for i, part in enumerate(parts) if any(name in only for name in part.linears)]
        return parts[: max(wanted, default=-1) + 1]

    def load(self, module: nn.Module, prefix: str, device: torch.device) -> None:
        """Give a module on the meta device its weights, and move its buffers."""
        for name, parameter in list(module.named_parameters()):
            owner, _, attribute = name.rpartition(".")
            full = self._stored(f"{prefix}.{name}" if prefix else name)
            weight = read_tensor(self.checkpoint, full, parameter.shape).to(device)
            setattr(module.get_submodule(owner), attribute, nn.Parameter(weight, requires_grad=False))
        for buffered in module.modules():
            for name, buffer in list(buffered.named_buffers(recurse=False)):
                setattr(buffered, name, buffer.to(device))

    def _stored(self, name: str) -> str:
        """The checkpoint's name of a tensor, or that of a tensor it is tied to."""
        names = [checkpoint_name(self.checkpoint, alias) for alias in self._aliases.get(name, [name])]
        own = checkpoint_name(self.checkpoint, name)
        return next((n for n in (own, *names) if n in self.checkpoint), own)

    def _tail(self, model: Any) -> Part | None:
        modules: dict[str, nn.Module] = {}
        for name in self.architecture.tail:
            parent, _, child = name.rpartition(".")
            module = getattr(model.get_submodule(parent), child, None)
            if module is not None:
                modules[name] = module
        cap = Softcap.of(model.config)
        if cap is not None:
            modules[""] = cap
        return Part(self, modules, {}) if modules else None

    def _start(
        self, model: Any, windows: NDArray[np.int64], device: torch.device, store: Path | None
    ) -> _Calls:
        """Run the model's own code up to its blocks, so that embeddings, positions, masks and rotary variants are
        those of the architecture; the weights in front of the blocks are given back afterwards.
        """
        row = self.architecture
        base = model.get_submodule(row.base)
        _check_windows(self.checkpoint, row, base, windows)
        front = _front(base, row)
        for name, module in front.items():
            self.load(module, name, device)
        parent, _, child = row.blocks.rpartition(".")
        owner = model.get_submodule(parent)
        blocks = getattr(owner, child)
        recorders = [_Recorder(block) for block in blocks]
        setattr(owner, child, nn.ModuleList(recorders))
        try:
            first = _first_input(base, row, recorders, windows[0], device)
            hidden = HiddenStates(first, len(windows), store)
            for i, window in enumerate(windows[1:], start=1):
                hidden[i] = _first_input(base, row, recorders, window, device)
        finally:
            setattr(owner, child, blocks)
            for module in front.values():
                _release(module)
        return _Calls(hidden, [recorder.call for recorder in recorders])


def _front(base: nn.Module, row: Architecture) -> dict[str, nn.Module]:
    """Modules of the base that hold weights or buffers and are neither blocks nor what follows them, by name."""
    front: dict[str, nn.Module] = {}

    def collect(prefix: str, module: nn.Module) -> None:
        for name, child in module.named_children():
            full = f"{prefix}.{name}" if prefix else name
            if full == row.blocks or full in row.tail:
                continue
            if row.blocks.startswith(f"{full}."):
                collect(full, child)
            else:
                front[full] = child

    collect(row.base, base)
    return front


def _check_windows(checkpoint: Checkpoint, row: Architecture, base: Any, windows: NDArray[np.int64]) -> None:
    vocabulary = base.get_input_embeddings().num_embeddings
    if int(windows.max()) >= vocabulary:
        raise PatchCompileError(
            f"The tokenizer of {checkpoint.path} does not belong to the model",
            f"It gives token {int(windows.max())}, the embedding has {vocabulary}.",
            "Put the model's own tokenizer beside its weights.",
        )
    longest = longest_window(row, base.config)
    if longest is not None and windows.shape[1] > longest:
        raise PatchCompileError(
            f"Windows of {windows.shape[1]} tokens are too long for {checkpoint.path}",
            f"Its positions are learned, and reach {longest} tokens.",
            f"Give --length {longest} or less.",
        )


def _first_input(
    base: Any,
    row: Architecture,
    recorders: list["_Recorder"],
    window: NDArray[np.int64],
    device: torch.device,
) -> Tensor:
    """What enters the first block; the first window also runs through all recorders.

    One window's calls serve all: windows have one length and no padding, so masks and positions are the same.
    """
    first = recorders[0].hidden is None
    recorders[-1 if first else 0].stops = True
    try:
        with torch.no_grad():
            ids = torch.from_numpy(window)[None].to(device)
            base(input_ids=ids, **({} if row.encoder else {"use_cache": False}))
    except _StopError:
        pass
    hidden = recorders[0].hidden
    assert hidden is not None
    return hidden


class _StopError(Exception):
    """The rest of the model is not wanted."""


class _Recorder(nn.Module):
    """Stands in for a block: keeps what it is called with, and passes the hidden states on or stops the model."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.__dict__["block"] = block  # not as a submodule: no one shall find its weights here
        self.hidden: Tensor | None = None
        self.call: dict[str, Any] = {}
        self.stops = False

    def __getattr__(self, name: str) -> Any:
        """Attributes that a model reads off its blocks, such as `attention_type`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["block"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        names = list(inspect.signature(self.__dict__["block"].forward).parameters)
        call = dict(zip(names, args, strict=False)) | kwargs
        hidden: Tensor = call.pop(names[0])
        self.hidden, self.call = hidden, call
        if self.stops:
            raise _StopError
        return hidden


def _release(module: nn.Module) -> None:
    for child in module.modules():
        for name, parameter in list(child.named_parameters(recurse=False)):
            setattr(child, name, nn.Parameter(parameter.to("meta"), requires_grad=False))


def _aliases(model: nn.Module) -> dict[str, list[str]]:
    """Names of all tensors that share a parameter, by each of their names."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name: group for group in names.values() if len(group) > 1 for name in group}
