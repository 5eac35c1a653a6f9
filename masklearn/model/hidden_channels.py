"""Finds the linears of a block that read one input: q, k and v, and those that make hidden channels for another linear."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["find_groups"]

_CLOSE = 1e-4
Inputs = Sequence[tuple[Tensor, Mapping[str, Any]]]


def find_groups(blocks: Any, inputs: Inputs) -> dict[str, Any]:
    """Returns the fields ffn, mlp and qkv of `Architecture`, empty ones for what is not found.

    blocks: of a small model; inputs: hidden states and other arguments of each block. q, k and v are three linears of one
    module with one input. Hidden channels can be permuted: rows of the linears that make them, with columns of the one
    that takes them in, do not change the block's output. That is tried.
    """
    qkv: tuple[str, ...] = ()
    mlp: tuple[tuple[str, ...], str] = ((), "")
    ffn: tuple[str, ...] = ()
    for block, (hidden, others) in zip(blocks, inputs, strict=True):
        output, groups, ran = _run(block, hidden, others)
        for owner, names in groups:
            if len(names) == 3 and not qkv and "experts" not in owner:
                qkv = names
        if mlp[1]:
            continue
        for owner, names in groups:
            down = _down(block, owner, names, ran)
            if down and _permutes(block, owner, names, down, hidden, others, output):
                mlp = names, down
                ffn = (f"{owner.partition('.')[0]}.*",) if owner else (*names, down)
    return {"qkv": qkv, "mlp": mlp, "ffn": ffn}


def _run(
    block: Any, hidden: Tensor, others: Mapping[str, Any]
) -> tuple[Tensor, list[tuple[str, tuple[str, ...]]], list[str]]:
    """Returns the block's output, the linears of each module that read one input, in the order of the model, and the names
    of all linears in the order in which they ran."""
    linears = {name: one for name, one in block.named_modules() if isinstance(one, nn.Linear)}
    read: dict[str, Tensor] = {}
    handles = [
        one.register_forward_pre_hook(lambda _, args, name=name: read.update({name: args[0]}))
        for name, one in linears.items()
    ]
    output = block(hidden, **others)
    for handle in handles:
        handle.remove()
    groups: dict[tuple[str, int], list[str]] = {}
    for name in linears:
        if name in read:
            owner, _, end = name.rpartition(".")
            groups.setdefault((owner, id(read[name])), []).append(end)
    return _hidden_of(output), [(owner, tuple(names)) for (owner, _), names in groups.items()], list(read)


def _hidden_of(output: Any) -> Tensor:
    hidden: Tensor = output if isinstance(output, Tensor) else output[0]
    return hidden


def _down(block: nn.Module, owner: str, names: tuple[str, ...], ran: list[str]) -> str:
    """Returns the linear of a module that ran later and can take in what these make, "" if none has the width."""
    module: Any = block.get_submodule(owner)
    makes = {module.get_submodule(name).out_features for name in names}
    if len(names) > 2 or len(makes) > 1:
        return ""
    wide = makes.pop()
    widths = (wide, wide // 2) if len(names) == 1 else (wide,)
    prefix = f"{owner}." if owner else ""
    later = ran[1 + max(ran.index(f"{prefix}{name}") for name in names) :]
    name: str
    for name, one in module.named_children():
        if f"{prefix}{name}" in later and one.in_features in widths and one.in_features > 1:
            return name
    return ""


def _permutes(
    block: Any,
    owner: str,
    names: tuple[str, ...],
    down: str,
    hidden: Tensor,
    others: Mapping[str, Any],
    output: Tensor,
) -> bool:
    """True if the block's output stays the same when the hidden channels of all such modules change places."""
    kind = re.sub(r"\d+", "*", owner)
    parts = [
        ([getattr(module, one) for one in names], getattr(module, down))
        for name, module in block.named_modules()
        if re.sub(r"\d+", "*", name) == kind and hasattr(module, down)
    ]
    for ups, last in parts:
        _rotate(ups, last, 1)
    changed = _hidden_of(block(hidden, **others))
    for ups, last in parts:
        _rotate(ups, last, -1)
    largest = max(1e-6, float(output.abs().max()))
    return bool((changed - output).abs().max() <= _CLOSE * largest)


def _rotate(ups: list[nn.Linear], down: nn.Linear, by: int) -> None:
    channels = down.in_features
    order = torch.arange(channels).roll(by)
    for up in ups:
        parts = up.out_features // channels
        rows = torch.cat([order + part * channels for part in range(parts)])
        up.weight.copy_(up.weight[rows].clone())
        if up.bias is not None:
            up.bias.copy_(up.bias[rows].clone())
    down.weight.copy_(down.weight[:, order].clone())
