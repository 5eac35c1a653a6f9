"""Proof for models that predict no next tokens: compares outputs of the dense, pruned and hybrid model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from patch_compile.artifacts.proof import (
    Agreement,
    ComparedInputs,
    EmbeddingsDifference,
    OutputsDifference,
    OutputsProof,
    ProofText,
    Tolerance,
)
from patch_compile.errors import AccuracyError
from patch_compile.onnx_io.compare import Outputs, answer, compare_answers
from patch_compile.onnx_io.feeds import Feed
from patch_compile.onnx_io.proto import load_proto
from patch_compile.onnx_io.runnable import runnable_onnx
from patch_compile.onnx_io.session import open_session, run_session
from patch_compile.onnx_io.tensor_names import ATTENTION_MASK, HIDDEN
from patch_compile.packing.function import NAME
from patch_compile.progress import Progress
from patch_compile.report.verify import tolerance_words
from patch_compile.sources.base import OutputSource
from patch_compile.sources.rounding import tolerance_of
from patch_compile.verification.graph_outputs import with_outputs

_TOGETHER = 16  # tensors in memory


def compare_outputs(
    source: OutputSource, hybrid: Path, pruned: Path, packed: Sequence[str], scratch: Path, progress: Progress
) -> tuple[OutputsProof, AccuracyError | None]:
    """Run the three models on the same inputs, and return the proof and the error if the hybrid is wrong.

    packed: names of the linears that are compiled. The error is None if the hybrid model was compiled right.
    """
    probe = source.probe(hybrid, progress)
    with progress.stage("dense reference"):
        dense = source.dense_onnx(scratch / "dense.onnx", runnable=True)
    answers: dict[str, Outputs] = {}
    for name, path in (("hybrid", runnable_onnx(hybrid, scratch)), ("dense", dense)):
        with progress.stage(f"{name} on ONNX Runtime"):
            answers[name] = answer(path, probe.feeds, scratch / name)
    with progress.stage("pruned reference"):
        reference = source.pruned_outputs(pruned, probe.feeds, answers["hybrid"].outputs, scratch / "pruned")
    with progress.stage("rounding"):
        rounding = source.rounding(pruned, hybrid, packed, probe, reference, scratch)
    tolerance = tolerance_of(source.recipe.dtype, rounding)
    # Any rounding may flip outputs that are not floating-point numbers, such as an argmax.
    differences = compare_answers(answers["hybrid"], reference)
    errors = {one.output: one.error(by_norm=tolerance.by_norm) for one in differences if one.floating}
    sizes = {output: math.inf if error is None else error for output, error in errors.items()}
    worst = max(sizes, key=sizes.__getitem__, default=None)
    lost = compare_answers(answers["hybrid"], answers["dense"])
    feeds = len(probe.feeds)
    proof = OutputsProof(
        text=ProofText(eval=probe.text) if probe.text else None,
        inputs=ComparedInputs(given=probe.origin, compared=feeds),
        agreement=Agreement(
            error=errors[worst] if worst else 0.0, tolerance=tolerance, output=worst, feeds=feeds
        ),
        difference=OutputsDifference(outputs=tuple(lost)),
        embeddings=_embeddings(source, probe.feeds, answers["hybrid"], answers["dense"]),
    )
    if worst is None:
        return proof, None
    overflow = partial(_first_overflow, runnable_onnx(hybrid, scratch), probe.feeds)
    return proof, _fault(source, worst, errors[worst], tolerance, overflow)


def _embeddings(
    source: OutputSource, feeds: Sequence[Feed], hybrid: Outputs, dense: Outputs
) -> EmbeddingsDifference | None:
    """Compare embeddings of the texts. Returns None for a source without embeddings, for a single text, and for values that
    are not finite."""
    pooling = source.pooling
    if pooling is None:
        return None
    made = [_pooled(feeds, answers, pooling) for answers in (hybrid, dense)]
    if len(made[1]) < 2 or not np.isfinite(made).all():
        return None
    mine, theirs = (pooled / np.linalg.norm(pooled, axis=1, keepdims=True).clip(min=1e-30) for pooled in made)
    cosines, count = (mine * theirs).sum(axis=1), len(theirs)
    different = ((theirs @ theirs.T).sum() - count) / (count * (count - 1))
    return EmbeddingsDifference(
        pooling=pooling,
        texts=count,
        mean=float(cosines.mean()),
        worst=float(cosines.min()),
        different=float(different),
    )


def _pooled(
    feeds: Sequence[Feed], answers: Outputs, pooling: Literal["mean", "first"]
) -> NDArray[np.float64]:
    """Returns the embedding of each text, `[texts, features]`."""
    position, texts = answers.outputs.index(HIDDEN), []
    for run, feed in enumerate(feeds):
        hidden = answers.read(position, run).astype(np.float64)
        read = np.asarray(feed[ATTENTION_MASK], bool)
        texts += [
            states[mask].mean(axis=0) if pooling == "mean" else states[0]
            for states, mask in zip(hidden, read, strict=True)
        ]
    return np.array(texts)


def _fault(
    source: OutputSource,
    output: str,
    error: float | None,
    tolerance: Tolerance,
    overflow: Callable[[], str | None],
) -> AccuracyError | None:
    """Returns the error of a hybrid model that is wrong.

    output: the output that differs most; error: its difference; overflow: names a linear's input or output that is not
    finite.
    """
    if error is None:
        tensor = overflow() or "an input or output of a linear"
        return AccuracyError(
            f"{output!r} of the hybrid is not finite where the pruned model's is",
            f"{tensor[0].upper()}{tensor[1:]} exceeds what {source.recipe.dtype} holds.",
            "Choose bf16 (--dtype bfloat16), or leave the linear dense with --exclude.",
        )
    if error <= tolerance.share:
        return None
    return AccuracyError(
        f"{output!r} of the hybrid differs from the pruned model's by {error:.2e} of "
        f"{'its norm' if tolerance.by_norm else 'its largest value'}",
        f"Rounding explains {tolerance.share:.2e}: {tolerance_words(tolerance)}.",
        f"This is a fault of the compiler: please report it with {source.format.to_report} and the recipe.",
    )


def _first_overflow(hybrid: Path, feeds: Sequence[Feed]) -> str | None:
    """Returns "the input of NAME" or "the output of NAME" of the first PatchLinear, in graph order, that has a value there
    that is not finite; None if all are finite on all feeds.

    hybrid: a file that ONNX Runtime can run.
    """
    places: dict[str, str] = {}
    for node in load_proto(hybrid).graph.node:
        if node.op_type == NAME:  # one linear's output may be the next one's input
            places.setdefault(node.input[0], f"the input of {node.name}")
            places.setdefault(node.output[0], f"the output of {node.name}")
    with with_outputs(hybrid, list(places)) as marked:
        session = open_session(marked)
    for feed in feeds:
        for start in range(0, len(places), _TOGETHER):
            names = [*places][start : start + _TOGETHER]
            for name, values in run_session(session, hybrid, feed, names).items():
                if not bool(np.isfinite(values).all()):
                    return places[name]
    return None
