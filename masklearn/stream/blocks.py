"""Runs a model block by block over calibration windows, with the weights of one block in memory.

Blocks are taken apart without weights: modules, arguments, and the input of the first block. The weights of a block are read
when it is needed and released afterwards.
"""

import inspect
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from masklearn.base.device import usable_device
from masklearn.base.errors import MaskLearnError
from masklearn.model.architectures import Architecture, check_window
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import read_tensor
from masklearn.model.models import meta_model
from masklearn.model.modules import LogitRule, keep_attention_in_fp32
from masklearn.model.naming import linear_name, stored_name, tied_names
from masklearn.stream.hidden_states import HiddenStates, PassCheckpoints


class Part:
    """Modules that run one after the other and whose weights are in memory together. They have no weights until `load`."""

    def __init__(
        self, model: "BlockModel", modules: Mapping[str, nn.Module], call: Mapping[str, Any]
    ) -> None:
        """modules: the modules by name; call: keyword arguments of the first module besides the hidden states."""
        self.module = next(iter(modules.values())) if len(modules) == 1 else nn.Sequential(*modules.values())
        self.call = call
        self._model = model
        self._modules = modules

    @property
    def linears(self) -> dict[str, nn.Linear]:
        """Linears of the modules by checkpoint name."""
        return {
            linear_name(self._model.checkpoint, f"{prefix}.{name}" if name else prefix): linear
            for prefix, module in self._modules.items()
            for name, linear in module.named_modules()
            if isinstance(linear, nn.Linear)
        }

    def tensor_names(self, module: nn.Module) -> dict[str, str]:
        """Returns the checkpoint names of the parameters of one of the modules inside, by the parameters' own names."""
        inside = (
            (prefix, name)
            for prefix, outer in self._modules.items()
            for name, inner in outer.named_modules()
            if inner is module
        )
        prefix, name = next(inside)
        path = ".".join(part for part in (prefix, name) if part)
        return {own: self._model.stored(f"{path}.{own}") for own, _ in module.named_parameters(recurse=False)}

    def load(self, device: torch.device) -> None:
        """Read the weights as fp32 and put them on `device`."""
        for prefix, module in self._modules.items():
            self._model.load(module, prefix, device)

    def release(self) -> None:
        """Free the weights: the parameters go back to the meta device."""
        for module in self._modules.values():
            _release(module)


class BlockModel:
    """Model of a checkpoint on the meta device, split into parts.

    hidden: inputs of the first block; blocks: the blocks in order; tail: final norm and output head of a decoder or
    pooler of an encoder, None if the model has neither.
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
        """store: folder for hidden states that do not fit in memory, None for the system's temporary folder."""
        self.checkpoint = checkpoint
        self.architecture = checkpoint.architecture
        model: Any = meta_model(checkpoint)
        keep_attention_in_fp32(model)
        self._names = tied_names(model)
        self.hidden, calls = self._start(model, windows, device, store)
        blocks = model.get_submodule(self.architecture.blocks)
        self.blocks = [
            Part(self, {f"{self.architecture.blocks}.{i}": block}, call)
            for i, (block, call) in enumerate(zip(blocks, calls, strict=True))
        ]
        self.tail = self._tail(model)

    def needed(self, only: Collection[str] | None, *, head: bool) -> list[Part]:
        """Returns the parts that must run: up to the last part with a linear of `only`.

        None stands for all blocks without the tail. With `head`, all blocks and the tail must run, whatever `only` is.
        """
        parts = [*self.blocks, *([self.tail] if self.tail else [])]
        if head:
            return parts
        if only is None:
            return self.blocks
        wanted = [i for i, part in enumerate(parts) if any(name in only for name in part.linears)]
        return parts[: max(wanted, default=-1) + 1]

    def load(self, module: nn.Module, prefix: str, device: torch.device) -> None:
        """Read the weights of a module from the checkpoint onto `device`, and move its buffers there."""
        for name, parameter in list(module.named_parameters()):
            owner, _, attribute = name.rpartition(".")
            full = self.stored(f"{prefix}.{name}" if prefix else name)
            weight = read_tensor(self.checkpoint, full, parameter.shape).to(device)
            setattr(module.get_submodule(owner), attribute, nn.Parameter(weight, requires_grad=False))
        for buffered in module.modules():
            for name, buffer in list(buffered.named_buffers(recurse=False)):
                setattr(buffered, name, buffer.to(device))

    def stored(self, name: str) -> str:
        """Returns the name under which the checkpoint stores a tensor or a tensor that it is tied to."""
        return stored_name(self.checkpoint, [name, *self._names[name]])

    def _tail(self, model: Any) -> Part | None:
        modules: dict[str, nn.Module] = {}
        for name in self.architecture.tail:
            parent, _, child = name.rpartition(".")
            module = getattr(model.get_submodule(parent), child, None)
            if module is not None:
                modules[name] = module
        rule = LogitRule.of(model.config)
        if rule is not None:
            modules[""] = rule
        return Part(self, modules, {}) if modules else None

    def _start(
        self, model: Any, windows: NDArray[np.int64], device: torch.device, store: Path | None
    ) -> tuple[HiddenStates, list[dict[str, Any]]]:
        """Run the model's own code up to its blocks. Returns the inputs of the first block, `[1, length, hidden]` for each
        window, and the keyword arguments of each block.

        Embeddings, positions, masks and rotary variants are therefore the architecture's own. The weights in front of
        the blocks are released afterwards.
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
        return hidden, [recorder.call for recorder in recorders]


def _front(base: nn.Module, row: Architecture) -> dict[str, nn.Module]:
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
        raise MaskLearnError(
            f"The tokenizer of {checkpoint.path} does not belong to the model",
            f"It gives token {int(windows.max())}, the embedding has {vocabulary}.",
            "Put the model's own tokenizer next to its weights.",
        )
    check_window(row, base.config, windows.shape[1])


def _first_input(
    base: Any,
    row: Architecture,
    recorders: list["_Recorder"],
    window: NDArray[np.int64],
    device: torch.device,
) -> Tensor:
    """Returns the input of the first block for a window. The first window also runs through all recorders.

    The keyword arguments that are recorded for the first window hold for all windows: they have the same length and no
    padding, so masks and positions are the same.
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
    """Stops the forward pass of a model."""


class _Recorder(nn.Module):
    """Takes a block's place: keeps the arguments of the call, and returns the hidden states or stops the forward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.__dict__["block"] = block  # a submodule would add its weights to the model's parameters
        self.hidden: Tensor | None = None
        self.call: dict[str, Any] = {}
        self.stops = False

    def __getattr__(self, name: str) -> Any:
        """Returns the block's attribute: some models read attributes of their blocks, such as `attention_type`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["block"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        names = list(inspect.signature(self.__dict__["block"].forward).parameters)
        call = dict(zip(names, args, strict=False)) | kwargs
        hidden: Tensor = call.pop(names[0])
        if (
            hidden.ndim == 2
        ):  # item 0 of what the recorder before returned, as the model's blocks return tuples
            hidden = hidden[None]
        self.hidden, self.call = hidden, call
        if self.stops:
            raise _StopError
        return hidden


def _release(module: nn.Module) -> None:
    for child in module.modules():
        for name, parameter in list(child.named_parameters(recurse=False)):
            setattr(child, name, nn.Parameter(parameter.to("meta"), requires_grad=False))


class Block:
    """One block with its weights in memory, and its inputs for all windows.

    Register forward hooks on the linears, then call `forward` or `advance`.

    module: the block, fp32, on the run's device; linears: its `nn.Linear`s by checkpoint name (weights [N, K],
    whatever the checkpoint's layout); tensor_names: see `Part`; hidden: its inputs, `[1, length, hidden]` per window; call:
    keyword arguments of the block besides the hidden states; is_head: True for the final norm and output head, which return
    logits; window: number of the window that `forward` or `advance` runs.
    """

    def __init__(
        self, part: Part, hidden: HiddenStates, *, is_head: bool = False, bf16: bool = False
    ) -> None:
        self.module = part.module
        self.linears = part.linears
        self.tensor_names = part.tensor_names
        self.hidden = hidden
        self.call: Mapping[str, Any] = part.call
        self.is_head = is_head
        self._bf16 = bf16
        self.advanced = False
        self.window = 0

    def run(self, hidden: torch.Tensor, *, bf16: bool = True) -> torch.Tensor:
        """Returns the block's output for `hidden` `[1, length, hidden]`, with gradients if the caller enables them.

        bf16: False computes in fp32, though the stream computes in bf16.
        """
        with torch.autocast(hidden.device.type, torch.bfloat16, enabled=self._bf16 and bf16):
            output = self.module(hidden, **self.call)
        return output if isinstance(output, torch.Tensor) else output[0]

    @torch.no_grad()
    def forward(self) -> None:
        """Run every window through the block to trigger hooks. The outputs are discarded."""
        for i, hidden in enumerate(self.hidden):
            self.window = i
            self.run(hidden)

    @torch.no_grad()
    def advance(self) -> None:
        """Run every window through the block and replace `hidden` by the outputs, the inputs of the next block.

        Raises RuntimeError at the second call.
        """
        if self.advanced:
            raise RuntimeError("the block has been advanced: its inputs are gone")
        for i, hidden in enumerate(self.hidden):
            self.window = i
            output = self.run(hidden)
            if not self.is_head:  # the logits of all windows would take far more memory than anything else
                self.hidden[i] = output
        self.advanced = True


def stream_blocks(
    checkpoint: Checkpoint,
    windows: NDArray[np.int64],
    device: str | None = None,
    only: Collection[str] | None = None,
    *,
    head: bool = False,
    store: Path | None = None,
    bf16: bool = False,
    checkpoints: PassCheckpoints | None = None,
) -> Iterator[Block]:
    """Yield the model's blocks in order, each with its weights read from the checkpoint in fp32.

    The current block is advanced (unless the caller did so) and its memory freed when the caller asks for the next block.
    Memory: one block (at first the embedding) and the hidden states of all windows (see `HiddenStates`).

    windows: token ids `[count, length]`; device: None for CUDA if there is one, else the CPU; only: names of the
    linears that the caller needs, None for all blocks: blocks after the last of these linears do not run, and the final
    norm and output head follow as a last block if they hold any of these linears; head: yield that last block in any case;
    store: folder for hidden states that do not fit in memory, None for the system's temporary folder;
    bf16: run linears in bf16 under autocast; checkpoints: saved after each block, and an interrupted pass resumes from
    them: blocks that they hold are not yielded.

    Raises MaskLearnError if a weight is missing, has a wrong shape, or holds NaN or infinity, if the windows do not fit the
    model, or if `head` is asked of an encoder.
    """
    if head:
        check_has_loss(checkpoint)
    on = usable_device(device)
    if checkpoints is not None and checkpoints.complete:
        return
    model = BlockModel(checkpoint, windows, on, store)
    parts = model.needed(only, head=head)
    done = checkpoints.start(model.hidden, len(parts)) if checkpoints is not None else 0
    for part in parts[done:]:
        part.load(on)
        block = Block(part, model.hidden, is_head=part is model.tail, bf16=bf16)
        yield block
        if not block.advanced:
            block.advance()
        part.release()
        if checkpoints is not None:
            checkpoints.finish(None if part is parts[-1] else model.hidden)


def check_has_loss(checkpoint: Checkpoint) -> None:
    """Raises MaskLearnError for an encoder."""
    if checkpoint.architecture.encoder:
        raise MaskLearnError(
            f"{checkpoint.path} has no next-token loss",
            f"It is an encoder ({checkpoint.config['model_type']}), which predicts no text.",
            "Rank tiles by a criterion that needs no loss: relative, raw or magnitude.",
        )
