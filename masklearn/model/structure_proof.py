"""Checks a small random decoder numerically against the structure inferred from module names, and completes its row."""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from masklearn.model.known_architectures import Architecture, NotCoveredError
from masklearn.model.modules import LogitRule, as_linears, is_conv1d, removed_after
from masklearn.model.pretrained import cache_argument

_TOKENS = 12
_CLOSE = 1e-4  # of the largest value: fp32 results of the same formulas in another order


class _Call(NamedTuple):
    """One call of a block. hidden: its input; others: its other arguments by name; output: its hidden states."""

    hidden: Tensor
    others: Mapping[str, Any]
    output: Tensor


@torch.no_grad()
def prove(model: Any, row: Architecture) -> Architecture:
    """Returns the row, completed by running the model. It changes the model in place.

    model: random, fp32; row: the names of its parts. Raises NotCoveredError with the first difference from the row.
    """
    ids = torch.randint(
        1, model.config.vocab_size, (2, 1, _TOKENS), generator=torch.Generator().manual_seed(0)
    )
    blocks: Any = model.get_submodule(row.blocks)
    conv1d = _keeps_conv1d(blocks)
    before = _logits(model, ids[0])
    as_linears(model)
    calls = _calls(model, blocks, ids[0])
    if not _close(_logits(model, ids[0]), before):
        raise NotCoveredError(
            "Its experts do not compute down(act(gate(x)) * up(x)), so they can't be taken apart."
        )
    _check_order(calls)
    row = replace(row, tail=(*_behind(model, row, ids[0]), *row.tail))
    _check_blocks_alone(blocks, calls, _calls(model, blocks, ids[1]))
    _check_tail(model, row, calls[-1].output, before)
    _check_base(model, row, ids[0], before)
    _check_cache(model, ids[0], before)
    return replace(
        row,
        conv1d=conv1d,
        positions=_positions(model, row),
        linears=_linears_of_every(blocks),
        gates=_gates(blocks),
        **_groups(blocks, calls),
    )


def _logits(model: Any, ids: Tensor) -> Tensor:
    try:
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    except Exception as error:  # of any type, as transformers raises them
        raise NotCoveredError.of("A small model of it does not run on text", error) from error
    return logits


def _keeps_conv1d(blocks: nn.Module) -> bool:
    turned = [
        is_conv1d(module) for module in blocks.modules() if is_conv1d(module) or isinstance(module, nn.Linear)
    ]
    if len(set(turned)) > 1:
        raise NotCoveredError("Its blocks hold both Conv1D, which is [K, N], and Linear, which is [N, K].")
    return turned[0]


def _calls(model: Any, blocks: Any, ids: Tensor) -> list[_Call]:
    """Run the model and return the call of each block in the order in which they ran."""
    calls: list[_Call] = []

    def keep(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        names = list(inspect.signature(block.forward).parameters)
        others = dict(zip(names, args, strict=False)) | kwargs
        hidden = others.pop(names[0])
        out = _hidden_of(output)
        if not isinstance(hidden, Tensor) or not isinstance(out, Tensor):
            raise NotCoveredError(f"Its blocks pass on a {type(hidden).__name__}, not hidden states.")
        calls.append(_Call(hidden, others, out))

    with removed_after(block.register_forward_hook(keep, with_kwargs=True) for block in blocks):
        _logits(model, ids)
    if len(calls) != len(blocks):
        raise NotCoveredError(f"Its {len(blocks)} blocks run {len(calls)} times.")
    return calls


def _behind(model: Any, row: Architecture, ids: Tensor) -> list[str]:
    """Returns the names of the base model's modules that run after the last block, in that order."""
    owner, (_, _, child) = model.get_submodule(row.base), row.blocks.rpartition(".")
    ran: list[str] = []
    parts = {f"{row.base}.{name}".lstrip("."): part for name, part in owner.named_children() if name != child}
    hooks = [
        part.register_forward_hook(lambda *_, name=name: ran.append(name)) for name, part in parts.items()
    ]
    hooks.append(getattr(owner, child)[-1].register_forward_hook(lambda *_: ran.clear()))
    with removed_after(hooks):
        _logits(model, ids)
    return ran


def _check_order(calls: list[_Call]) -> None:
    for i, (call, following) in enumerate(pairwise(calls)):
        if call.output.shape != following.hidden.shape or not torch.equal(call.output, following.hidden):
            raise NotCoveredError(f"Block {i + 1} does not read the hidden states that block {i} computes.")


def _check_blocks_alone(blocks: Any, calls: list[_Call], of_other_text: list[_Call]) -> None:
    """Check that blocks give the other text's results with the first text's arguments, apart from hidden states."""
    for i, (block, call, expected) in enumerate(zip(blocks, calls, of_other_text, strict=True)):
        if not _close(_hidden_of(block(expected.hidden, **call.others)), expected.output):
            name = next((n for n, value in call.others.items() if not _same(value, expected.others[n])), None)
            what = (
                f"reads {name}, which differs from text to text" if name else "reads more than its arguments"
            )
            raise NotCoveredError(f"Block {i} {what}.")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b)


def _check_tail(model: Any, row: Architecture, hidden: Tensor, logits: Tensor) -> None:
    for name in row.tail:
        hidden = model.get_submodule(name)(hidden)
    rule = LogitRule.of(model.config)
    if not _close(hidden if rule is None else rule(hidden), logits):
        raise NotCoveredError(
            f"Its logits are not what {' and '.join(row.tail)} make of the last block's hidden states."
        )


def _check_base(model: Any, row: Architecture, ids: Tensor, logits: Tensor) -> None:
    """Check that only the head follows the base models, ours and transformers'."""
    rule = LogitRule.of(model.config) or nn.Identity()
    for base in (model.get_submodule(row.base), model.base_model):
        hidden = getattr(base(input_ids=ids, use_cache=False), "last_hidden_state", None)
        if hidden is None or not _close(rule(model.get_submodule(row.head)(hidden)), logits):
            raise NotCoveredError(
                f"Its logits are not what {row.head} makes of the last hidden states of {row.base}."
            )


def _check_cache(model: Any, ids: Tensor, logits: Tensor) -> None:
    """Check that each block keeps keys and values, with which a text can be read in two parts."""
    from transformers import DynamicCache

    cache: Any = DynamicCache()
    argument = cache_argument(model)
    if argument not in inspect.signature(model.forward).parameters:
        raise NotCoveredError("It keeps no keys and values.")
    half = ids.shape[1] // 2
    parts = []
    for part in (ids[:, :half], ids[:, half:]):
        try:
            parts.append(model(input_ids=part, use_cache=True, **{argument: cache}).logits)
        except Exception as error:  # of any type, as transformers raises them
            raise NotCoveredError.of("It does not continue a text with keys and values", error) from error
    keys = [getattr(layer, "keys", None) for layer in cache.layers]
    if len(keys) != model.config.num_hidden_layers or any(k is None or k.ndim != 4 for k in keys):
        raise NotCoveredError("It keeps something other than keys and values of each block.")
    if not _close(torch.cat(parts, dim=1), logits):
        raise NotCoveredError(
            "Its logits differ when a text is read in two parts, with keys and values of the first."
        )


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    difference = float((a - b).abs().max())  # NaN is not below
    return difference <= _CLOSE * max(1e-6, float(b.abs().max()))


def _positions(model: Any, row: Architecture) -> int | None:
    """Returns `Architecture.positions`: learned positions are an embedding other than the tokens'."""
    longest = getattr(model.config, "max_position_embeddings", None)
    tables = [
        module.num_embeddings
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        and name != row.embedding
        and not name.startswith(f"{row.blocks}.")
    ]
    if longest is None or not tables:
        return None
    return max(0, int(longest) - min(tables))


def _linears_of_every(blocks: Any) -> tuple[str, ...]:
    kinds = {
        tuple(name for name, module in block.named_modules() if isinstance(module, nn.Linear))
        for block in blocks
    }
    experts = any("experts" in name.split(".") for name, _ in blocks.named_modules())
    return kinds.pop() if len(kinds) == 1 and not experts else ()


def _gates(blocks: Any) -> tuple[str, ...]:
    ends: dict[str, None] = {}
    for name, module in blocks.named_modules():
        owner, _, end = name.rpartition(".")
        if (
            isinstance(module, nn.Linear)
            and end.endswith(("gate", "router"))
            and hasattr(blocks.get_submodule(owner), "experts")
        ):
            ends[f".{end}"] = None
    return tuple(ends)


def _groups(blocks: Any, calls: Sequence[_Call]) -> dict[str, Any]:
    """Returns the fields mlp and qkv of `Architecture`; a field is empty if it is not found.

    blocks: of a small model; calls: of each block. q, k and v are three linears of a module with the same input. The
    feed-forward part is found by a trial: permuting its hidden channels (rows of the linears that make them, and columns of
    the linear that takes them in) does not change the block's output.
    """
    qkv: tuple[str, ...] = ()
    mlp: tuple[tuple[str, ...], str] = ((), "")
    for block, call in zip(blocks, calls, strict=True):
        groups, ran = _run(block, call)
        for owner, names in groups:
            if len(names) == 3 and not qkv and "experts" not in owner:
                qkv = names
        if mlp[1]:
            continue
        for owner, names in groups:
            down = _down(block, owner, names, ran)
            if down and _permutes(block, owner, names, down, call):
                mlp = names, down
    return {"qkv": qkv, "mlp": mlp}


def _run(block: Any, call: _Call) -> tuple[list[tuple[str, tuple[str, ...]]], list[str]]:
    """Returns the linears of each module that read the same input, in the order of the model, and the names of all linears
    in the order in which they ran."""
    linears = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
    read: dict[str, Tensor] = {}
    with removed_after(
        linear.register_forward_pre_hook(lambda _, args, name=name: read.update({name: args[0]}))
        for name, linear in linears.items()
    ):
        block(call.hidden, **call.others)
    groups: dict[tuple[str, int], list[str]] = {}
    for name in linears:
        if name in read:
            owner, _, end = name.rpartition(".")
            groups.setdefault((owner, id(read[name])), []).append(end)
    return [(owner, tuple(names)) for (owner, _), names in groups.items()], list(read)


def _hidden_of(output: Any) -> Tensor:
    hidden: Tensor = output if isinstance(output, Tensor) else output[0]
    return hidden


def _down(block: nn.Module, owner: str, names: tuple[str, ...], ran: list[str]) -> str:
    """Returns the linear of a module that ran later and fits the width of these linears' outputs, "" if no linear does."""
    module: Any = block.get_submodule(owner)
    makes = {module.get_submodule(name).out_features for name in names}
    if len(names) > 2 or len(makes) > 1:
        return ""
    wide = makes.pop()
    widths = (wide, wide // 2) if len(names) == 1 else (wide,)
    prefix = f"{owner}." if owner else ""
    later = ran[1 + max(ran.index(f"{prefix}{name}") for name in names) :]
    name: str
    for name, child in module.named_children():
        if f"{prefix}{name}" in later and child.in_features in widths and child.in_features > 1:
            return name
    return ""


def _permutes(block: Any, owner: str, names: tuple[str, ...], down: str, call: _Call) -> bool:
    """True if the block's output stays the same when the hidden channels of all such modules change places."""
    kind = re.sub(r"\d+", "*", owner)
    parts = [
        ([getattr(module, end) for end in names], getattr(module, down))
        for name, module in block.named_modules()
        if re.sub(r"\d+", "*", name) == kind and hasattr(module, down)
    ]
    for ups, last in parts:
        _rotate(ups, last, 1)
    changed = _hidden_of(block(call.hidden, **call.others))
    for ups, last in parts:
        _rotate(ups, last, -1)
    return _close(changed, call.output)


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
