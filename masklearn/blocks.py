"""A model run block by block over calibration windows, with the weights of one block in memory."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.architectures import Architecture, architecture_of, meta_model
from masklearn.checkpoint import Checkpoint
from masklearn.errors import PatchCompileError

__all__ = ["Block", "stream_blocks"]


class Block:
    """One block with its weights in memory, and the hidden states of all windows that enter it.

    module: the block, fp32, on the run's device; linears: its `nn.Linear`s by checkpoint name. Register forward
    hooks on them, then call `forward` or `advance`.
    """

    def __init__(self, part: "_Part", hidden: list[torch.Tensor]) -> None:
        self.module = part.module
        self.linears = part.linears()
        self.advanced = False
        self._part = part
        self._hidden = hidden

    def forward(self) -> None:
        """Run every window through the block for its hooks' sake; the outputs are dropped."""
        for hidden in self._hidden:
            self._run(hidden)

    def advance(self) -> None:
        """Run every window through the block; the outputs enter the next one. Once only."""
        if self.advanced:
            raise RuntimeError("the block has been advanced: its inputs are gone")
        for i, hidden in enumerate(self._hidden):
            output = self._run(hidden)
            if self._part.feeds_next:
                self._hidden[i] = output
        self.advanced = True

    @torch.no_grad()
    def _run(self, hidden: torch.Tensor) -> torch.Tensor:
        output = self.module(hidden, **self._part.call)
        return output if isinstance(output, torch.Tensor) else output[0]


def stream_blocks(
    checkpoint: Checkpoint,
    windows: NDArray[np.int64],
    device: str | None = None,
    only: Collection[str] | None = None,
) -> Iterator[Block]:
    """Yield the model's blocks in order, each with its weights read from the checkpoint in fp32.

    A block that the caller did not advance is advanced when the next one is asked for; its memory is then given
    back. windows: `[count, length]` token ids; device: None for CUDA when there is one; only: the linears that
    are wanted: blocks after the last of them are not run, and if the output head is among them a last block of
    final norm and head follows. Memory: one block (at first the embedding) and the hidden states of all
    windows. PatchCompileError when a weight is missing, misshapen, or holds NaN or infinity.
    """
    architecture = architecture_of(checkpoint)
    model = meta_model(checkpoint)
    hidden = _embed(model, architecture, checkpoint, windows, _device(device))
    parts = _parts(model, architecture, _block_calls(model, architecture, hidden[0]))
    for part in _needed(parts, only):
        for prefix, module in part.modules.items():
            _materialise(module, prefix, checkpoint, hidden[0].device)
        block = Block(part, hidden)
        yield block
        if not block.advanced:
            block.advance()
        part.module.to("meta")


@dataclass(frozen=True)
class _Part:
    """Modules by checkpoint prefix that are in memory together, and what runs them."""

    modules: Mapping[str, torch.nn.Module]
    module: torch.nn.Module
    call: Mapping[str, Any]
    feeds_next: bool = True

    def linears(self) -> dict[str, torch.nn.Linear]:
        return {
            f"{prefix}.{name}" if name else prefix: linear
            for prefix, module in self.modules.items()
            for name, linear in module.named_modules()
            if isinstance(linear, torch.nn.Linear)
        }


def _parts(model: Any, architecture: Architecture, calls: list[dict[str, Any]]) -> list[_Part]:
    blocks = model.get_submodule(architecture.blocks)
    parts = [
        _Part({f"{architecture.blocks}.{i}": block}, block, call)
        for i, (block, call) in enumerate(zip(blocks, calls, strict=True))
    ]
    tail = {name: model.get_submodule(name) for name in (architecture.norm, architecture.head)}
    # The logits of all windows together would be far larger than anything else here.
    return [*parts, _Part(tail, torch.nn.Sequential(*tail.values()), {}, feeds_next=False)]


def _needed(parts: list[_Part], only: Collection[str] | None) -> list[_Part]:
    if only is None:
        return parts[:-1]
    wanted = [i for i, part in enumerate(parts) if any(name in only for name in part.linears())]
    return parts[: max(wanted, default=-1) + 1]


def _embed(
    model: Any,
    architecture: Architecture,
    checkpoint: Checkpoint,
    windows: NDArray[np.int64],
    device: torch.device,
) -> list[torch.Tensor]:
    """Embeddings of every window, `[1, length, hidden]` each."""
    embedding = model.get_submodule(architecture.embedding)
    if int(windows.max()) >= embedding.num_embeddings:
        raise PatchCompileError(
            f"The tokenizer of {checkpoint.path} does not belong to the model",
            f"It gives token {int(windows.max())}, the embedding has {embedding.num_embeddings}.",
            "Put the model's own tokenizer beside its weights.",
        )
    weight = _read(checkpoint, f"{architecture.embedding}.weight", embedding.weight.shape)
    return [
        torch.nn.functional.embedding(torch.from_numpy(window)[None], weight).to(device) for window in windows
    ]


def _block_calls(model: Any, architecture: Architecture, hidden: torch.Tensor) -> list[dict[str, Any]]:
    """What the model passes to each block besides the hidden states: mask, rotary embedding, positions.

    The model's own forward runs with every block replaced by one that only records, so that masks (sliding
    windows) and rotary variants are those of the architecture.
    """
    base = model.get_submodule(architecture.base)
    blocks, norm = base.layers, base.norm
    recorders = [_Recorder() for _ in blocks]
    # Built again for real: its frequencies come from the config, no checkpoint holds them.
    base.rotary_emb = type(base.rotary_emb)(config=model.config).to(hidden.device)
    base.layers, base.norm = torch.nn.ModuleList(recorders), torch.nn.Identity()
    try:
        with torch.no_grad():
            base(inputs_embeds=hidden, use_cache=False)
    finally:
        base.layers, base.norm = blocks, norm
    return [recorder.call for recorder in recorders]


class _Recorder(torch.nn.Module):
    """Stands in for a block: keeps the arguments and passes the hidden states on."""

    def __init__(self) -> None:
        super().__init__()
        self.call: dict[str, Any] = {}

    def forward(self, hidden: torch.Tensor, **call: Any) -> torch.Tensor:
        self.call = call
        return hidden


def _materialise(module: torch.nn.Module, prefix: str, checkpoint: Checkpoint, device: torch.device) -> None:
    """Give a module on the meta device its weights."""
    for name, parameter in list(module.named_parameters()):
        owner, _, attribute = name.rpartition(".")
        weight = _read(checkpoint, f"{prefix}.{name}", parameter.shape).to(device)
        setattr(module.get_submodule(owner), attribute, torch.nn.Parameter(weight, requires_grad=False))


def _read(checkpoint: Checkpoint, name: str, shape: torch.Size) -> torch.Tensor:
    if name not in checkpoint:
        raise PatchCompileError(
            f"{checkpoint.path} has no {name}",
            "config.json describes a model that has it.",
            "Fetch the checkpoint again.",
        )
    if checkpoint.shape(name) != tuple(shape):
        raise PatchCompileError(
            f"{name} is {list(checkpoint.shape(name))} in the checkpoint",
            f"config.json makes it {list(shape)}.",
            "Use the config.json that belongs to the weights.",
        )
    return checkpoint.read_finite(name)


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise PatchCompileError(
            f"The device {name!r} cannot be used", str(error).splitlines()[0], "Give cpu or cuda."
        ) from error
