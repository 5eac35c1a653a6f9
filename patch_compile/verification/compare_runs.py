"""Runs a decoder's graph and its pruned checkpoint on the same inputs, and compares their logits.

Both hold the same 16-bit weights and may differ only by rounding: transformers computes in fp32, the graph rounds its
activations to 16 bits. Routers of a mixture of experts choose what the graph chooses, see `choices.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patch_compile.artifacts.proof import AskedTolerance, Tolerance, ToleranceOrigin
from patch_compile.artifacts.verify import ComparedRun, ErrorStats, OnnxCheck
from patch_compile.onnx_io.feeds import Feed
from patch_compile.onnx_io.session import errors_of_runs
from patch_compile.onnx_io.tensor_names import ATTENTION_MASK, INPUT_IDS, LOGITS
from patch_compile.progress import Progress
from patch_compile.runtime.onnx_decoder import OnnxDecoder
from patch_compile.sources.base import TokenSource
from patch_compile.sources.rounding import rounding_tolerance, roundings_of, tolerance_of
from patch_compile.verification.choices import Choices, Followed, following

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Runs:
    """Runs of one model. logits: of each feed; seconds: duration of each run."""

    name: str
    logits: Sequence[Logits]
    seconds: Sequence[float]

    def polygraphy(self) -> Any:
        """Returns the runs as Polygraphy's RunResults."""
        from polygraphy.comparator import IterationResult, RunResults

        made = [
            IterationResult({LOGITS: logits}, runtime=seconds, runner_name=self.name)
            for logits, seconds in zip(self.logits, self.seconds, strict=True)
        ]
        return RunResults([(self.name, made)])


@dataclass(frozen=True)
class GraphRuns(Runs):
    """Runs of a graph. choices: indices that it has chosen, for each feed; layers: number of layers with a KV cache."""

    feeds: Sequence[Feed]
    choices: Sequence[Choices]
    layers: int


@dataclass(frozen=True)
class PrunedRuns(Runs):
    """Runs of the pruned model. lost: the most that a choice of the graph's routers loses against the best, see
    `Followed`."""

    lost: float = 0.0


def note_memory(source: TokenSource, progress: Progress) -> None:
    """Say so if the models are run without their weights in memory."""
    if not source.fits_in_memory:
        needed, free = (count / 1e9 for count in source.memory)
        progress.note(
            f"each run of the proof reads the weights from the disk: {needed:.0f} GB would hold them in memory, "
            f"{free:.0f} GB are free"
        )


def feeds_of(decoder: OnnxDecoder, probes: Iterable[NDArray[np.int64]]) -> list[Feed]:
    """Returns two feeds for each probe: a prefill of all tokens but the last, then one decode step on its cache."""
    feeds: list[Feed] = []
    for probe in probes:
        ids = probe[None]
        feeds.append(decoder.feed(ids[:, :-1], decoder.empty_cache(1)))
        _, cache = decoder.step(ids[:, :-1], decoder.empty_cache(1))
        feeds.append(decoder.feed(ids[:, -1:], cache))
    return feeds


def run_graph(
    name: str, decoder: OnnxDecoder, feeds: Sequence[Feed], choices: Sequence[str] = ()
) -> GraphRuns:
    """Run a graph on the feeds. choices: names of the outputs that are choices of routers."""
    logits, seconds, chosen = [], [], []
    for feed in feeds:
        start = perf_counter()
        with errors_of_runs(decoder.path):
            made, *others = decoder.session.run([LOGITS, *choices], feed)
        seconds.append(perf_counter() - start)
        logits.append(made.astype(np.float32))
        chosen.append(dict(zip(choices, others, strict=True)))
    layers = sum(name.endswith(".key") for name in decoder.empty_cache(1))
    return GraphRuns(name, logits, seconds, feeds, chosen, layers)


def run_pruned(source: TokenSource, answer: Callable[[Feed], Logits], graph: GraphRuns) -> PrunedRuns:
    """Run the pruned model on the feeds of the graph. Its routers choose what the graph has chosen.

    answer: gives the pruned model's logits, see `TokenSource.reference_logits`.
    """
    logits, seconds, lost, start = [], [], 0.0, perf_counter()
    for made, followed in _followed(answer, graph):
        logits.append(made)
        seconds.append(perf_counter() - start)
        lost, start = max(lost, followed.lost), perf_counter()
    return PrunedRuns(source.format.pruned_words, logits, seconds, lost)


def _followed(
    logits: Callable[[Feed], NDArray[np.float32]], graph: GraphRuns
) -> Iterator[tuple[NDArray[np.float32], Followed]]:
    """Yield a model's logits for each feed, with the choices that the graph has made for that feed."""
    for feed, choices in zip(graph.feeds, graph.choices, strict=True):
        with following(choices) as followed:
            made = logits(feed)
        yield made, followed


def compare_runs(
    graph: GraphRuns,
    reference: PrunedRuns,
    dtype: str,
    measure: Callable[[], Tolerance] | None = None,
    *,
    asked: AskedTolerance | None = None,
    statistic: str = "max",
) -> OnnxCheck:
    """Compare runs of the same feeds.

    The tolerance is the error of rounding to `dtype`, as a share of the largest logit. Choices of routers may lose no more
    than rounding explains. measure: measures the tolerance if the derived tolerance is exceeded, see
    `measured_tolerance`. asked: replaces the tolerance. statistic: the statistic of a run's errors that must keep the
    tolerance, as Polygraphy names it.
    """
    scale = _largest(reference.logits)
    runs = []
    for feed, mine, theirs in zip(graph.feeds, graph.logits, reference.logits, strict=True):
        tokens = feed[INPUT_IDS].shape[1]
        runs.append(compared_run(tokens, feed[ATTENTION_MASK].shape[1] - tokens, mine, theirs, scale))
    error = worst_error(runs)  # None, which no tolerance allows, if a logit is not finite
    tolerance = rounding = rounding_tolerance(dtype, graph.layers)
    atol, rtol = rounding.share * scale, 0.0
    if asked is not None:
        tolerance = Tolerance(share=asked.atol / scale, origin=ToleranceOrigin.ASKED, asked=asked)
        atol, rtol = asked.atol, asked.rtol
    passed = error is not None and reference.lost <= rounding.share
    passed = passed and _agree(graph, reference, atol, rtol, statistic)
    if error is not None:
        error = max(error, reference.lost)
        if not passed and asked is None and measure is not None:
            tolerance = measure()
            passed = error <= tolerance.share
    return OnnxCheck(passed=passed, error=error, tolerance=tolerance, runs=tuple(runs))


def measured_tolerance(
    source: TokenSource, pruned: Path, graph: GraphRuns, reference: PrunedRuns
) -> Tolerance:
    """Returns the tolerance for a model that amplifies roundings more than a model of its depth usually does.

    Rows of equal weights, for example, round in one direction. As for ONNX files, the tolerance is twice the error of the
    pruned model itself when transformers computes it in 16 bits, which involves nothing that this project compiled.

    graph: gives feeds and choices; reference: the pruned model in fp32.
    """
    rounded = _followed(source.reference_logits(pruned, sixteen_bits=True), graph)
    error = relative_error((logits for logits, _ in rounded), reference.logits)
    measured = 2.0 * error if np.isfinite(error) else 0.0
    rounding = replace(roundings_of(graph.layers), measured=measured, by=ToleranceOrigin.SIXTEEN_BITS)
    return tolerance_of(source.recipe.dtype, rounding)


def relative_error(logits: Iterable[Logits], exact: Sequence[Logits]) -> float:
    return _largest(mine - theirs for mine, theirs in zip(logits, exact, strict=True)) / _largest(exact)


def _largest(arrays: Iterable[Logits]) -> float:
    return float(np.max([np.abs(array).max() for array in arrays]))


def compared_run(
    tokens: int, past: int, mine: NDArray[Any], theirs: NDArray[Any], scale: float
) -> ComparedRun:
    """Returns the errors of one run on `tokens` tokens behind `past` others. scale: largest |logit| of all runs."""
    stats = None
    if np.isfinite(mine).all() and np.isfinite(theirs).all():
        apart = np.abs(mine.astype(np.float64) - theirs)
        stats = ErrorStats(
            max=float(apart.max()),
            mean=float(apart.mean()),
            median=float(np.median(apart)),
            rms=float(np.sqrt(np.square(apart).mean())),
        )
    error = stats.max / scale if stats else None
    phase: Any = "decode" if past else "prefill"
    return ComparedRun(phase=phase, tokens=tokens, past=past, error=error, stats=stats)


def worst_error(runs: Iterable[ComparedRun]) -> float | None:
    """Returns the largest error, None if any error is not finite."""
    errors = [run.error for run in runs]
    return None if None in errors else max(error for error in errors if error is not None)


def _agree(graph: Runs, reference: Runs, atol: float, rtol: float, statistic: str) -> bool:
    from polygraphy.comparator import Comparator, RunResults, SimpleCompareFunc

    both = RunResults([graph.polygraphy()[0], reference.polygraphy()[0]])
    with quiet_polygraphy():
        judge = SimpleCompareFunc(atol=atol, rtol=rtol, check_error_stat=statistic)
        return bool(Comparator.compare_accuracy(both, compare_func=judge))


@contextmanager
def quiet_polygraphy() -> Iterator[None]:
    """Silence Polygraphy, which logs to stdout, where the result is printed."""
    from polygraphy.logger import G_LOGGER

    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        yield
