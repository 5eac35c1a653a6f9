"""Moves differences in size between the input channels of a linear into its weights, where they cost fewer digits.

Some input channels are a hundred times as large as others, and integers of one scale for a token can't hold both. Let d be
positive, a number for each input channel: x / d times W · diag(d) is x times W. The division is folded into whatever makes x
(`masklearn.stream.sites`). All d are powers of two, so that products and sums keep every bit, and a block's output does not
change. Channels are scaled only by numbers whose results the checkpoint's type holds.

The shape of d is that of SmoothQuant (arXiv 2211.10438, eq. 4). Its strength is chosen for each input, by the error of the
block's output.

Only inputs of linears of type w8a8 are scaled. Inputs of 16 bits hold both sizes, and weights of int4, which are rounded on
the Hessian (`masklearn.solvers.rounding`), would lose more if smoothed.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from masklearn.base.processes import made_once
from masklearn.base.shard import Shard, write_shard
from masklearn.masks.record import SmoothedRecord
from masklearn.masks.stored import COLUMNS, ROWS
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.naming import from_stored, to_stored
from masklearn.model.rounded_inputs import inputs_rounded
from masklearn.model.store import WeightStore
from masklearn.quant.table import INT4, W8A8, WeightType, with_rounded_inputs
from masklearn.stream.blocks import Block, stream_blocks
from masklearn.stream.feed import CheckpointFeed
from masklearn.stream.hidden_states import checkpoints_of
from masklearn.stream.logits import watch_calls
from masklearn.stream.sites import Site, parameters_kept, sites_of
from masklearn.task import Task

Folds = Mapping[str, NDArray[np.int8]]
"""See `MaskSet.folds`."""

_WHAT = "smoothing"
_STRENGTH, _ERROR, _SHIFTED = "strength", "error", "shifted"
_STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_WINDOWS = 8  # that the sizes of channels are measured on; strengths are tried on the first
_SMALLEST = 1e-5  # size of a channel, as a share of the largest
_LARGEST = 12  # of |log2 d|
_CLOSE = 1e-5  # of a block's output: norms of 1 + w and sums in fp32 round


@dataclass(frozen=True, eq=False)
class Smoothed:
    """Smoothed model. checkpoint: the model with its scaled weights as its new weights; folds: what was scaled; record: for
    the mask file."""

    checkpoint: Checkpoint
    folds: Folds
    record: SmoothedRecord


def smooth_inputs(task: Task) -> Smoothed | None:
    """Smooth the inputs of linears of type w8a8, if text is read anyway; None if there are none.

    Where the type is still open, inputs are smoothed unless int4 may be chosen, which would lose by it. Raises as `smooth`.
    """
    if task.checkpoint.quantised or not task.recipe.reads_text:
        return None
    types: dict[str, WeightType] = {}
    for name, allowed in CheckpointFeed(task).allowed_types.items():
        if quantised := [kind for kind in allowed if kind.quantised]:
            types[name] = next((kind for kind in (INT4, W8A8) if kind in quantised), quantised[0])
    return smooth(task, types) if with_rounded_inputs(types) else None


def smooth(task: Task, types: Mapping[str, WeightType]) -> Smoothed:
    """Scale the inputs of linears of type w8a8, where the block's output then loses less.

    It runs the model over calibration windows, with one block in memory; an interrupted run resumes in its block. types: of
    the quantised linears. Inputs that a linear of another quantised type shares are not scaled.

    Raises MaskLearnError as `stream_blocks` does, and RuntimeError if a block's output changes.
    """
    path = made_once(task.scratch / "folds.safetensors", lambda: _find(task, types))
    shard = Shard.open(path)
    folds = {name: shard.read(name) for name in shard.tensors}
    record = SmoothedRecord.model_validate_json(shard.metadata["record"])
    store = WeightStore(task.scratch / "smoothed", below=task.checkpoint.new)
    return Smoothed(folded(task.checkpoint, folds, store, shifted=record.shifted), folds, record)


def folded(checkpoint: Checkpoint, folds: Folds, store: WeightStore, *, shifted: bool) -> Checkpoint:
    """Returns the checkpoint with scaled channels, which computes the same. The new weights are written to `store`.

    shifted: True if norms multiply by 1 + w; their new weights are then rounded to the type of the checkpoint.
    """
    for tensor in dict.fromkeys(name.removesuffix(ROWS).removesuffix(COLUMNS) for name in folds):
        values = from_stored(checkpoint, tensor, checkpoint.read_finite(tensor))
        if (rows := folds.get(f"{tensor}{ROWS}")) is not None:
            shift = float(shifted and values.ndim == 1 and not tensor.endswith("bias"))
            d = torch.exp2(torch.from_numpy(rows).float())
            values = (values + shift) / (d if values.ndim == 1 else d[:, None]) - shift
        if (columns := folds.get(f"{tensor}{COLUMNS}")) is not None:
            values = values * torch.exp2(torch.from_numpy(columns).float())
        store.put(tensor, to_stored(checkpoint, tensor, values), checkpoint.entry(tensor))
    return checkpoint.with_weights(store)


def _find(task: Task, types: Mapping[str, WeightType]) -> None:
    """Write the folds to their file."""
    windows = task.text.calibration()[:_WINDOWS]
    rounded = with_rounded_inputs(types)
    key = ",".join(f"{name}={kind}" for name, kind in types.items())
    checkpoints = checkpoints_of(task, task.scratch / "smoothed-blocks", _WHAT, key, windows)
    stream = stream_blocks(
        task.checkpoint,
        windows,
        task.recipe.device,
        only=rounded,
        store=task.activations,
        checkpoints=checkpoints,
    )
    done = len(checkpoints.results)
    for block in stream:
        own = {name: kind for name, kind in types.items() if name in block.linears}
        for name, arrays in _scale_block(task.checkpoint, block, own).items():
            checkpoints.add(name, arrays)
        done += len(with_rounded_inputs(own))
        task.progress(_WHAT, done, len(rounded))
    _write(task.scratch / "folds.safetensors", checkpoints.results)


def _write(path: Path, results: Mapping[str, Mapping[str, NDArray[np.generic]]]) -> None:
    """results: by the first taker of each site its folds, strength, error and shift; by linears without a site nothing."""
    sites = [site for site in results.values() if site]
    scaled = [site for site in sites if site[_STRENGTH][0]]
    folds = {name: array for site in scaled for name, array in site.items() if name.endswith((ROWS, COLUMNS))}
    record = SmoothedRecord(
        sites=len(sites),
        scaled=len(scaled),
        whole=tuple(name for name, site in results.items() if not site),
        strength=round(float(np.mean([site[_STRENGTH][0] for site in scaled])), 2) if scaled else 0.0,
        dense_error=float(f"{max((float(site[_ERROR][0]) for site in sites), default=0.0):.1e}"),
        shifted=any(bool(site[_SHIFTED][0]) for site in sites),
    )
    specs = {name: ("I8", array.shape) for name, array in sorted(folds.items())}
    write_shard(path, specs, lambda name: folds[name], {"record": record.model_dump_json()})


@torch.no_grad()
def _scale_block(
    checkpoint: Checkpoint, block: Block, types: Mapping[str, WeightType]
) -> dict[str, dict[str, NDArray[np.generic]]]:
    """Scale the block's weights in memory. Returns the arrays of `_write` by linear; types: of the block's linears."""
    window = block.hidden[0].clone()  # `_sizes` puts the output there
    dense = block.run(window)
    results: dict[str, dict[str, NDArray[np.generic]]] = {name: {} for name in with_rounded_inputs(types)}
    # An input is read as it is by linears of 16 bits, and scales of rows or spans would suffer.
    sites = [
        site
        for site in sites_of(block)
        if {types[name].input_bits for name in site.takers if name in types} == {W8A8.input_bits}
    ]
    sizes = _sizes(block, [next(iter(site.takers)) for site in sites])
    for site in sites:
        name = next(iter(site.takers))
        linears = {taker: linear for taker, linear in site.takers.items() if taker in results}
        chosen = _choose(checkpoint, block, site, sizes[name], linears, window, dense)
        if chosen is None:
            continue
        strength, exponents = chosen
        site.scale(exponents)
        off = float((block.run(window) - dense).norm() / dense.norm().clamp(min=1e-30))
        if not off <= _CLOSE:
            raise RuntimeError(f"smoothing the input of {name} changes its block's output by {off:.1e}")
        numbers = {_STRENGTH: strength, _ERROR: off, _SHIFTED: site.shift}
        for taker in linears:
            del results[taker]
        arrays = {key: np.array([number]) for key, number in numbers.items()}
        results[name] = site.folds(block, exponents) | arrays
    return results


def _sizes(block: Block, names: Collection[str]) -> dict[str, Tensor]:
    """Returns the largest |x| of each input channel `[K]` over the calibration windows, by linear. Moves the windows on to
    the next block, because smoothing does not change this block's output."""
    largest: dict[str, Tensor] = {}

    def see(name: str, x: Tensor, _: Tensor) -> None:
        top = x.flatten(0, -2).abs().amax(dim=0)
        largest[name] = torch.maximum(largest.get(name, top), top)

    with watch_calls({name: block.linears[name] for name in names}, see):
        block.advance()
    return largest


def _choose(
    checkpoint: Checkpoint,
    block: Block,
    site: Site,
    sizes: Tensor,
    linears: Mapping[str, nn.Linear],
    window: Tensor,
    dense: Tensor,
) -> tuple[float, Tensor] | None:
    """Returns the strength with the least error of the block's output, and its exponents; 0.0 and zeros for no scaling.

    It is None if the checkpoint's type holds the weights of no strength. sizes: of the site's inputs; linears: of the site's
    takers, those of type w8a8; window, dense: input and output of the block.
    """
    inputs = _log2(site.gather(sizes))
    largest = torch.stack([linear.weight.abs().amax(dim=0) for linear in site.takers.values()]).amax(dim=0)
    weights = _log2(site.gather(largest))
    tried: list[tuple[float, float, Tensor]] = []
    for strength in (0.0, *_STRENGTHS):
        exponents = _exponents(inputs, weights, strength) if strength else torch.zeros_like(inputs)
        with parameters_kept(site.modules):
            site.scale(exponents)
            if strength and not site.held(checkpoint, block):
                continue
            _round_weights(linears.values())
            with inputs_rounded(linears):
                tried.append((float((block.run(window) - dense).square().sum()), strength, exponents))
    if len(tried) == 1:
        return None
    _, strength, exponents = min(tried, key=lambda attempt: attempt[:2])
    return strength, exponents


def _exponents(inputs: Tensor, weights: Tensor, strength: float) -> Tensor:
    """Returns log2 d, whole numbers, with a median of 0. inputs, weights: log2 of the sizes of the site's channels."""
    log = strength * inputs - (1 - strength) * weights
    return (log - log.median()).round().clamp(-_LARGEST, _LARGEST)


def _log2(sizes: Tensor) -> Tensor:
    return sizes.clamp(min=max(float(sizes.max()), 1e-30) * _SMALLEST).log2()


def _round_weights(linears: Iterable[nn.Linear]) -> None:
    """Round weights in place to the nearest integer times the scale of their row."""
    for linear in linears:
        weight = linear.weight.data
        lowest, highest = weight.aminmax(dim=1, keepdim=True)
        scale = torch.maximum(highest, -lowest).clamp_(min=1e-30) / W8A8.highest
        weight.div_(scale).round_().mul_(scale)
