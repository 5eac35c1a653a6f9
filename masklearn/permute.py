"""Permutes hidden channels of feed-forward parts, so that channels which are cheap to prune share tiles.

The activation between up (and gate) and down is elementwise, so the model's outputs do not change if the rows of up and
gate and the columns of down are permuted in the same way. Pool and Yu (NeurIPS 2021) permute for 2:4 too, to mix strong
and weak channels in groups of 4. This module sorts channels by their contribution to down's output. Weak channels then
share tiles, as rows in up and gate and as columns in down, and these tiles are cheaper to prune than any tile in the
checkpoint's order. docs/explanation/decisions/0009-permuted-channels.md describes the alternatives.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn.base.processes import made_once
from masklearn.base.shard import Shard, write_shard
from masklearn.masks.record import PermutedRecord
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from masklearn.model.linears import read_linear, write_linear
from masklearn.model.models import meta_model
from masklearn.model.naming import linear_name
from masklearn.model.store import WeightStore
from masklearn.stream.blocks import Block, stream_blocks
from masklearn.stream.hidden_states import checkpoints_of
from masklearn.stream.logits import watch_calls
from masklearn.stream.moments import squared_input_norms
from masklearn.task import Task


@dataclass(frozen=True)
class Mlp:
    """Feed-forward part `down(act(gate(x)) * up(x))` or `down(act(up(x)))` with an elementwise act.

    up: checkpoint names of the linears whose rows are the hidden channels: gate and up, a fused linear (`[2 I, H]`: the
    rows of gate, then the rows of up), or only up; down: the linear whose columns they are, `[H, I]`; channels: I.
    """

    up: tuple[str, ...]
    down: str
    channels: int

    @property
    def linears(self) -> tuple[str, ...]:
        return (*self.up, self.down)


def mlps_of(checkpoint: Checkpoint, covered: Collection[str]) -> list[Mlp]:
    """Returns the feed-forward parts whose linears are all covered, in the order of the model.

    Each expert of a mixture is a part.
    """
    row, model = checkpoint.architecture, meta_model(checkpoint)
    up, down = row.mlp
    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    parts = []
    for name, module in linears.items():
        owner = name.removesuffix(down)
        ups = [f"{owner}{end}" for end in up]
        inside = name.startswith(f"{row.blocks}.") and name.endswith(f".{down}")
        if not inside or not linears.keys() >= {*ups}:
            continue
        mlp = Mlp(
            tuple(linear_name(checkpoint, path) for path in ups),
            linear_name(checkpoint, name),
            module.in_features,
        )
        if all(linear in covered for linear in mlp.linears):
            parts.append(mlp)
    return parts


Orders = Mapping[str, NDArray[np.int32]]

_WHAT = "ordering hidden channels"
_ORDER, _ERROR = "order", "error"
_WINDOWS = 16  # windows of 512 tokens; tiles are scored on as many
_UNIT_ROUNDOFF = 2.0**-24
_ROUNDING = 8.0  # allowed rounding error, in units of the expected error of a sum


@dataclass(frozen=True, eq=False)
class Permuted:
    """Model with permuted hidden channels.

    checkpoint: the model with the permuted weights as its new weights; orders: by down linear, int32 `[channels]`: channel i
    is channel `order[i]` of the checkpoint on the disk; record: record for the mask file.
    """

    checkpoint: Checkpoint
    orders: Orders
    record: PermutedRecord


def permute(task: Task) -> Permuted:
    """Sort the hidden channels of every feed-forward part whose linears are all covered.

    It runs one forward pass over calibration windows, with one block in memory. The main process writes the new
    weights to files in the scratch folder, and an interrupted run resumes in its block. The output of every part is compared
    before and after.

    Raises RuntimeError if they differ by more than rounding explains, and MaskLearnError as `stream_blocks` does.
    """
    store = WeightStore(task.scratch / "permuted", below=task.checkpoint.new)
    path = made_once(task.scratch / "orders.safetensors", lambda: _write(task, store))
    shard = Shard.open(path)
    orders: Orders = {name: shard.read(name) for name in shard.tensors}
    record = PermutedRecord.model_validate_json(shard.metadata["record"])
    if not orders:
        task.note("no channels to permute: in no feed-forward part are all linears covered")
    return Permuted(task.checkpoint.with_weights(store), orders, record)


def reordered(checkpoint: Checkpoint, orders: Orders, store: WeightStore) -> Checkpoint:
    """Returns the checkpoint with its hidden channels in the orders of masks that were learned with a permutation.

    Its outputs do not change, and its weights have the order of the pruned model's. They are written to `store`.
    """
    coverage = covered_linears_of(checkpoint)
    # Masks may cover linears by name that are dense without flags, such as experts.
    mlps = {mlp.down: mlp for mlp in mlps_of(checkpoint, {*coverage.linears, *coverage.skipped})}
    for down, order in orders.items():
        mlp, index = mlps[down], torch.from_numpy(order.astype(np.int64))
        for name in mlp.up:
            weight = read_linear(checkpoint, name)
            rows = _rows(index, weight.shape[0], mlp.channels)
            write_linear(store, checkpoint, name, weight[rows])
            if (bias := f"{name}.bias") in checkpoint:
                store.put(bias, checkpoint.read_finite(bias)[rows], checkpoint.entry(bias))
        write_linear(store, checkpoint, down, read_linear(checkpoint, down)[:, index])
    return checkpoint.with_weights(store)


def _rows(order: torch.Tensor, out_features: int, channels: int) -> torch.Tensor:
    """Returns the order of the rows of gate and up. If they are fused, each half has the order of the channels."""
    return torch.cat([order + start for start in range(0, out_features, channels)])


def _write(task: Task, store: WeightStore) -> None:
    """Write the permuted weights to `store`, and then the file of the orders, which marks the work as complete."""
    mlps, windows = mlps_of(task.checkpoint, task.coverage.linears), task.text.calibration()[:_WINDOWS]
    checkpoints = checkpoints_of(task, task.scratch / "permuted-blocks", _WHAT, "", windows)
    done = [mlp for mlp in mlps if mlp.down in checkpoints.results]
    if not all(store.has_own(f"{name}.weight") for mlp in done for name in mlp.linears):
        checkpoints.forget()
    stream = stream_blocks(
        task.checkpoint,
        windows,
        task.recipe.device,
        only=[mlp.down for mlp in mlps],
        store=task.activations,
        bf16=task.bf16,
        checkpoints=checkpoints,
    )
    for block in stream if mlps else ():
        ours = [mlp for mlp in mlps if mlp.down in block.linears]
        order_of, off = _permute_block(block, ours)
        for mlp in ours:
            _store(store, task.checkpoint, block, mlp)
        for name, order in order_of.items():
            checkpoints.add(name, {_ORDER: order.cpu().numpy().astype(np.int32), _ERROR: np.array([off])})
        task.progress(_WHAT, len(checkpoints.results) + len(order_of), len(mlps))
    orders = {name: arrays[_ORDER] for name, arrays in checkpoints.results.items()}
    error = max((float(arrays[_ERROR][0]) for arrays in checkpoints.results.values()), default=0.0)
    channels = sum(map(len, orders.values()))
    record = PermutedRecord(parts=len(orders), channels=channels, dense_error=float(f"{error:.1e}"))
    specs = {name: ("I32", order.shape) for name, order in sorted(orders.items())}
    about = {"record": record.model_dump_json()}
    write_shard(task.scratch / "orders.safetensors", specs, lambda name: orders[name], about)


def _permute_block(block: Block, mlps: Sequence[Mlp]) -> tuple[dict[str, torch.Tensor], float]:
    """Advance the block and permute its weights in memory. Returns the orders and the largest relative error."""
    downs = {mlp.down: block.linears[mlp.down] for mlp in mlps}
    window = block.hidden[0].clone()
    norms = squared_input_norms(downs, block.advance)
    before = _calls(block, downs, window)
    orders = {}
    for mlp in mlps:
        # by their contribution to the squared output of down
        order = (downs[mlp.down].weight.square().sum(dim=0) * norms[mlp.down]).argsort(stable=True)
        orders[mlp.down] = order
        _permute_linears(block, mlp, order)
    after = _calls(block, downs, window)
    errors = [_error(name, downs[name], before[name], after[name]) for name in downs]
    return orders, max(errors, default=0.0)


def _permute_linears(block: Block, mlp: Mlp, order: torch.Tensor) -> None:
    for name in mlp.up:
        linear = block.linears[name]
        rows = _rows(order, linear.out_features, mlp.channels)
        linear.weight.data = linear.weight.data[rows]
        if linear.bias is not None:
            linear.bias.data = linear.bias.data[rows]
    down = block.linears[mlp.down]
    down.weight.data = down.weight.data[:, order].contiguous()


def _store(store: WeightStore, checkpoint: Checkpoint, block: Block, mlp: Mlp) -> None:
    for name in mlp.linears:
        linear = block.linears[name]
        write_linear(store, checkpoint, name, linear.weight)
        if linear.bias is not None and name != mlp.down:
            store.put(f"{name}.bias", linear.bias, checkpoint.entry(f"{name}.bias"))


_Call = tuple[torch.Tensor, torch.Tensor]


@torch.no_grad()
def _calls(block: Block, linears: Mapping[str, torch.nn.Linear], window: torch.Tensor) -> dict[str, _Call]:
    """Run a window in fp32. Returns the inputs and outputs of the linears."""
    calls: dict[str, _Call] = {}

    def keep(name: str, x: torch.Tensor, output: torch.Tensor) -> None:
        calls[name] = x, output

    with watch_calls(linears, keep):
        block.run(window, bf16=False)
    return calls


def _error(name: str, down: torch.nn.Linear, before: _Call, after: _Call) -> float:
    """Returns ‖y' − y‖ / ‖y‖ of down's outputs. Raises RuntimeError if rounding does not explain it.

    The error of a sum of K terms is about √K·u times the sum of their magnitudes, where u is the unit roundoff (Higham and
    Mary, SIAM J. Sci. Comput. 41, 2019).
    """
    off = float((after[1] - before[1]).norm())
    magnitude = float((after[0].abs() @ down.weight.abs().T).norm())
    allowed = _ROUNDING * down.in_features**0.5 * _UNIT_ROUNDOFF * magnitude
    size = float(before[1].norm())
    if off > allowed:
        raise RuntimeError(
            f"the channels of {name} are not free to change places: its output differs by {off / size:.1e} of its "
            f"norm, and rounding explains {allowed / size:.1e}"
        )
    return off / size if size else 0.0
