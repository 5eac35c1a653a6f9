"""Compares a pruned model with the dense model on the same text, block by block and by their predictions."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from masklearn.base.errors import MaskLearnError
from masklearn.base.progress import OnStep
from masklearn.base.threads import total
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.folder import RoundedInputs
from masklearn.model.models import meta_model
from masklearn.model.modules import removed_after
from masklearn.quant.table import W8A8
from masklearn.stream.blocks import Block, stream_blocks
from masklearn.stream.hidden_states import HiddenStates
from masklearn.stream.logits import (
    HEAD_CHUNK,
    log_probabilities,
    perplexity_of,
    token_kl,
    token_nll,
    watch_calls,
)

# Bins of the histogram of |error|, from 1e-12 to 1e6: with 128 per factor of ten the median is exact to 1 %.
_DECADES, _BINS_A_DECADE = (-12, 6), 128
_BINS = (_DECADES[1] - _DECADES[0]) * _BINS_A_DECADE


@dataclass
class Predictions:
    """Sums over predicted tokens. NLL and KL(dense ‖ pruned) are in nats."""

    tokens: int = 0
    nll_dense: float = 0.0
    nll_pruned: float = 0.0
    kl: float = 0.0
    same_top1: int = 0

    def add(self, dense: Tensor, pruned: Tensor, labels: Tensor) -> None:
        """Add predictions: both models' logits, fp32 `[tokens, vocabulary]`, and the true tokens `[tokens]`."""
        log_p, log_q = log_probabilities(dense), log_probabilities(pruned)
        self.tokens += len(labels)
        self.nll_dense += float(token_nll(log_p, labels).sum(dtype=torch.float64))
        self.nll_pruned += float(token_nll(log_q, labels).sum(dtype=torch.float64))
        self.kl += float(token_kl(log_p, log_q).sum(dtype=torch.float64))
        self.same_top1 += int((dense.argmax(-1) == pruned.argmax(-1)).sum())

    @property
    def perplexity(self) -> tuple[float, float]:
        return perplexity_of(self.nll_dense, self.tokens), perplexity_of(self.nll_pruned, self.tokens)


@dataclass
class LogitErrors:
    """Sums over single logits of |pruned − dense|."""

    scale: float = 0.0  # largest |logit| of the dense model
    largest: float = 0.0
    absolute: float = 0.0
    squared: float = 0.0
    logits: int = 0
    histogram: Tensor = field(default_factory=lambda: torch.zeros(_BINS, dtype=torch.int64))

    def add(self, dense: Tensor, pruned: Tensor) -> None:
        """Add the logits of both models, fp32, of any shape."""
        error = (pruned - dense).abs()
        self.scale = max(self.scale, float(dense.abs().max()))
        self.largest = max(self.largest, float(error.max()))
        self.absolute += float(total(error.double()))
        self.squared += float(total(error.double().square()))
        self.logits += error.numel()
        first, last = _DECADES
        exponents = error.clamp(10.0**first, 10.0**last * 0.999).log10()
        self.histogram += torch.histc(exponents, _BINS, first, last).to("cpu", torch.int64)

    def stats(self) -> dict[str, float]:
        """Returns max, mean, median (to 1 %) and rms of the errors, and `scale`, the largest dense |logit|."""
        half = int(torch.searchsorted(self.histogram.cumsum(0), (self.logits + 1) // 2))
        return {
            "max": self.largest,
            "mean": self.absolute / self.logits,
            "median": 10.0 ** (_DECADES[0] + (half + 0.5) / _BINS_A_DECADE),
            "rms": math.sqrt(self.squared / self.logits),
            "scale": self.scale,
        }


@dataclass(frozen=True)
class Comparison:
    """Differences between a dense and a pruned model.

    linears: ‖X(W − W')ᵀ‖² and ‖XWᵀ‖² by name, where X are the linear's inputs in the dense model and W' is the pruned
    weight; blocks: ‖h' − h‖ / ‖h‖ of each block's outputs h in the dense model and h' in the pruned model; predictions,
    logits: None for an encoder, which does not predict tokens; logits: also None if they were not asked for; overflows: by
    linear with a static scale, the share of the elements of X in the pruned model that are beyond 127 times the scale.
    """

    linears: Mapping[str, tuple[float, float]]
    blocks: tuple[float, ...]
    predictions: Predictions | None
    logits: LogitErrors | None
    overflows: Mapping[str, float]


@torch.no_grad()
def compare_models(
    dense: Checkpoint,
    pruned: Checkpoint,
    linears: Collection[str],
    windows: NDArray[np.int64],
    device: str | None,
    progress: OnStep,
    store: Path | None = None,
    *,
    with_logits: bool = True,
) -> Comparison:
    """Run both models in fp32 over `windows` `[count, length]`, with one block of each in memory.

    pruned: must have its masks applied and its channels in the dense model's order; linears: names of the linears to
    compare; store: folder for hidden states that do not fit in memory; with_logits: False leaves out the errors of single
    logits, which take three times as long as the predictions.

    Raises MaskLearnError as `stream_blocks` does, and for NaN or infinity: the error names the model and the first
    block with such an output.
    """
    row = dense.architecture
    head = not row.encoder
    streams = [stream_blocks(model, windows, device, head=head, store=store) for model in (dense, pruned)]
    errors: dict[str, tuple[float, float]] = {}
    blocks: list[float] = []
    steps = len(list(meta_model(dense).get_submodule(row.blocks).children())) + head
    predictions = logits = None
    overflows = _Overflows(pruned.rounded_inputs)
    for ours, theirs in zip(*streams, strict=True):
        if ours.is_head:
            logits = LogitErrors() if with_logits else None
            predictions = _predictions(ours, theirs, windows, logits)
        else:
            with overflows.counted(theirs.linears):
                blocks.append(_advance(ours, theirs, linears, errors, len(blocks)))
        progress("comparing block by block", len(blocks) + (predictions is not None), steps)
    return Comparison(errors, tuple(blocks), predictions, logits, overflows.shares)


class _Overflows:
    """Counts the elements of X that static scales cut off. shares: by linear."""

    def __init__(self, scales: RoundedInputs) -> None:
        self._limits = {name: W8A8.highest * own.input for name, own in scales.items() if own is not None}
        self.shares: dict[str, float] = {}

    @contextmanager
    def counted(self, linears: Mapping[str, nn.Linear]) -> Iterator[None]:
        """Count in the block, in which these linears run."""
        beyond, elements = Counter[str](), Counter[str]()

        def see(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            # A number up to half a step beyond the limit is rounded to it.
            beyond[name] += int((inputs[0].abs() > self._limits[name] * (1 + 0.5 / W8A8.highest)).sum())
            elements[name] += inputs[0].numel()

        with removed_after(
            linear.register_forward_pre_hook(partial(see, name), prepend=True)  # before X is rounded
            for name, linear in linears.items()
            if name in self._limits
        ):
            yield
        self.shares |= {name: beyond[name] / count for name, count in elements.items()}


def _advance(
    dense: Block, pruned: Block, linears: Collection[str], errors: dict[str, tuple[float, float]], number: int
) -> float:
    """Advance both blocks and add the errors of their linears to `errors`. Returns the outputs' relative error."""
    errors |= _advance_dense(dense, pruned, [name for name in dense.linears if name in linears])
    pruned.advance()
    _check_finite("dense", dense.hidden, number)
    _check_finite("pruned", pruned.hidden, number)
    pairs = list(zip(dense.hidden, pruned.hidden, strict=True))
    apart = sum(float(total((b - a).double().square())) for a, b in pairs)
    energy = sum(float(total(a.double().square())) for a, _ in pairs)
    return math.sqrt(apart / energy) if energy else 0.0


def _advance_dense(dense: Block, pruned: Block, names: Collection[str]) -> dict[str, tuple[float, float]]:
    """Advance the dense block. Returns ‖X(W − W')ᵀ‖² and ‖XWᵀ‖² of the linears by name; X are their inputs."""
    changes = {name: pruned.linears[name].weight - dense.linears[name].weight for name in names}
    errors, energies = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)

    def add(name: str, x: Tensor, output: Tensor) -> None:
        bias = dense.linears[name].bias
        product = output if bias is None else output - bias
        error = torch.nn.functional.linear(x, changes[name])
        errors[name] += float(total(error.double().square()))
        energies[name] += float(total(product.double().square()))

    with watch_calls({name: dense.linears[name] for name in names}, add):
        dense.advance()
    return {name: (errors[name], energies[name]) for name in names}


def _predictions(
    dense: Block, pruned: Block, windows: NDArray[np.int64], errors: LogitErrors | None
) -> Predictions:
    """Returns the predictions of both heads. errors: receives their logits."""
    predictions = Predictions()
    for ours, theirs, window in zip(dense.hidden, pruned.hidden, windows, strict=True):
        labels = torch.from_numpy(window[1:]).to(ours.device)
        for start in range(0, len(labels), HEAD_CHUNK):
            chunk = slice(start, min(start + HEAD_CHUNK, len(labels)))
            p, q = dense.run(ours[:, chunk])[0].float(), pruned.run(theirs[:, chunk])[0].float()
            _check_logits("dense", p)
            _check_logits("pruned", q)
            predictions.add(p, q, labels[chunk])
            if errors is not None:
                errors.add(p, q)
    return predictions


def _check_finite(model: str, hidden: HiddenStates, number: int) -> None:
    if not all(bool(window.isfinite().all()) for window in hidden):
        raise MaskLearnError(
            f"The {model} model's block {number} gives NaN or infinity",
            "Every block before it gives finite numbers, in fp32 on this text.",
            "Look at the weights of that block: patch-compile inspect names tensors that are not finite.",
        )


def _check_logits(model: str, logits: Tensor) -> None:
    if not bool(logits.isfinite().all()):
        raise MaskLearnError(
            f"The {model} model's logits hold NaN or infinity",
            "All of its blocks give finite numbers: it is the final norm or the output head.",
            "Look at their weights: patch-compile inspect names tensors that are not finite.",
        )


@torch.no_grad()
def divergences(
    dense: Checkpoint,
    pruned: Sequence[Checkpoint],
    windows: NDArray[np.int64],
    device: str | None,
    progress: OnStep,
    store: Path | None = None,
) -> list[float]:
    """Returns, for each pruned checkpoint, the mean KL(dense ‖ pruned) of the next token over `windows`, in nats.

    For encoders, which do not predict tokens, it is ‖h' − h‖² / ‖h‖² of the last hidden states h of the dense and h' of the
    pruned model. Masks must have been applied to the weights. Memory: a block and a head of each of two models, and
    twice the hidden states of all windows; hidden states that do not fit go to the folder `store`.

    windows: token ids `[count, length]`; device: None for CUDA if there is one. Raises MaskLearnError as
    `stream_blocks` does.
    """
    head = not dense.architecture.encoder
    models = len(pruned) + 1
    reference = _last(dense, windows, device, store, head=head)
    progress("comparing with the dense model", 1, models)
    distances = []
    for done, checkpoint in enumerate(pruned, start=2):
        last = _last(checkpoint, windows, device, store, head=head)
        distances.append(_kl(reference, last) if head else _distance(reference, last))
        progress("comparing with the dense model", done, models)
    return distances


def _last(
    checkpoint: Checkpoint, windows: NDArray[np.int64], device: str | None, store: Path | None, *, head: bool
) -> Block:
    """Returns the head with its inputs and its weights in memory, or without `head` the last block, advanced."""
    last: Block | None = None
    for last in stream_blocks(checkpoint, windows, device, head=head, store=store):
        if last.is_head:
            break
    assert last is not None
    return last


def _kl(dense: Block, pruned: Block) -> float:
    kl, tokens = 0.0, 0
    for ours, theirs in zip(dense.hidden, pruned.hidden, strict=True):
        for start in range(0, ours.shape[1], HEAD_CHUNK):
            chunk = slice(start, start + HEAD_CHUNK)
            log_p = log_probabilities(dense.run(ours[:, chunk]).float())
            log_q = log_probabilities(pruned.run(theirs[:, chunk]).float())
            kl += float(token_kl(log_p, log_q).sum(dtype=torch.float64))
        tokens += ours.shape[0] * ours.shape[1]
    return kl / tokens


def _distance(dense: Block, pruned: Block) -> float:
    apart = sum(
        float(total((a - b).double().square())) for a, b in zip(dense.hidden, pruned.hidden, strict=True)
    )
    return apart / sum(float(total(hidden.double().square())) for hidden in dense.hidden)
