"""Proof of a build: agreement of the compiled model, loss of quality by pruning, and a sentence by each model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from masklearn import Predictions
from patch_compile.artifacts.proof import (
    Agreement,
    BuildPerplexity,
    OutputsProof,
    PredictionsDifference,
    ProofText,
    Sentence,
    TextRunner,
    TextWindows,
    TokensProof,
    Tolerance,
)
from patch_compile.errors import AccuracyError
from patch_compile.onnx_io.compare import load_array, save_array
from patch_compile.onnx_io.feeds import Feed
from patch_compile.onnx_io.runnable import runnable_onnx
from patch_compile.progress import Progress, Update
from patch_compile.report.verify import tolerance_words
from patch_compile.runtime.decoder import check_finite, pad_left
from patch_compile.runtime.onnx_decoder import OnnxDecoder
from patch_compile.sources.base import OutputSource, Source
from patch_compile.verification.compare_runs import (
    GraphRuns,
    PrunedRuns,
    compare_runs,
    feeds_of,
    measured_tolerance,
    relative_error,
    run_graph,
    run_pruned,
)
from patch_compile.verification.graph_outputs import with_all_logits, with_choices
from patch_compile.verification.last_words import LastWord, compare_words, last_words, right_words
from patch_compile.verification.outputs import compare_outputs

_PROBE_WINDOWS, _PROBE_TOKENS = 2, 96
_SENTENCE_TOKENS = 40


def prove(
    source: Source, hybrid: Path, pruned: Path, packed: Sequence[str], scratch: Path, progress: Progress
) -> TokensProof | OutputsProof:
    """Compare hybrid, pruned and dense model.

    packed: names of the linears that are compiled. The dense ONNX and outputs of the models are written to `scratch` and
    removed. Raises AccuracyError if the hybrid model was not compiled right.
    """
    shutil.rmtree(scratch, ignore_errors=True)  # left by an interrupted run
    scratch.mkdir(parents=True)
    proof: TokensProof | OutputsProof
    if isinstance(source, OutputSource):
        proof, fault = compare_outputs(source, hybrid, pruned, packed, scratch, progress)
        if fault:
            raise fault
    else:
        proof = _prove_next_tokens(source, hybrid, pruned, scratch, progress)
    shutil.rmtree(scratch)
    return proof


@dataclass(frozen=True)
class _Probes:
    """Questions for a model.

    windows: held-out tokens `[count, length]`; prompt: token ids to continue, until `ended(new tokens)` is true or
    `new_tokens` are generated; texts: texts whose last word is to be found.
    """

    windows: NDArray[np.int64]
    prompt: list[int]
    new_tokens: int
    ended: Callable[[list[int]], bool]
    texts: Sequence[LastWord]


@dataclass(frozen=True)
class _Study:
    """Answers of a graph. logits: one file per window, fp32 `[length, vocabulary]`; continuation: new token ids; right: for
    each text whether its last word was found."""

    runs: GraphRuns
    logits: list[Path]
    continuation: list[int]
    right: list[bool]


def _prove_next_tokens(
    source: Source, hybrid_path: Path, pruned: Path, scratch: Path, progress: Progress
) -> TokensProof:
    r, tokenizer = source.recipe, source.tokenizer
    windows, text = source.evaluation(progress)
    prompt = tokenizer(r.prompt)["input_ids"]
    texts = last_words(tokenizer, source.sequences.positions if source.sequences else None)
    probes = _Probes(windows, prompt, _room(source, prompt), partial(_ended, tokenizer), texts)
    with progress.stage("dense reference"):
        dense_path = source.dense_onnx(scratch / "dense.onnx", logits="all", runnable=True)
    with (
        with_all_logits(hybrid_path) as full,
        progress.stage("hybrid on ONNX Runtime") as update,
        with_choices(runnable_onnx(full, scratch)) as (graph, choices),
    ):
        hybrid = _study("hybrid", graph, probes, scratch, update, choices=choices)
    with progress.stage("dense on ONNX Runtime") as update:
        dense = _study("dense", dense_path, probes, scratch, update, hybrid.runs.feeds)
    with progress.stage("pruned reference"):
        reference = run_pruned(source, pruned, hybrid.runs)
    measure = partial(measured_tolerance, source, pruned, hybrid.runs, reference)
    quality = compare_logits(dense.logits, hybrid.logits, windows)
    on = TextWindows(
        name=text.name,
        windows=windows.shape[0],
        length=windows.shape[1],
        dtype=r.dtype,
        runner=TextRunner.ONNX_RUNTIME,
    )
    return TokensProof(
        text=ProofText(eval=text),
        perplexity=BuildPerplexity(dense=quality.perplexity[0], hybrid=quality.perplexity[1], on=on),
        agreement=check_agreement(hybrid.runs, dense.runs, reference, r.dtype, measure),
        difference=PredictionsDifference(
            kl=quality.kl / quality.tokens,
            top1_agreement=quality.same_top1 / quality.tokens,
        ),
        generated=Sentence(
            prompt=r.prompt,
            dense=_text(tokenizer, dense.continuation),
            hybrid=_text(tokenizer, hybrid.continuation),
        ),
        last_words=compare_words(dense.right, hybrid.right),
    )


def _study(
    name: str,
    path: Path,
    probes: _Probes,
    folder: Path,
    progress: Update,
    feeds: Sequence[Feed] | None = None,
    *,
    choices: Sequence[str] = (),
) -> _Study:
    """Ask one graph all questions in one session, so that two models are never in memory together.

    Logits are written to `folder`. feeds: feeds of an earlier study to compare the answers with; choices: names of the
    outputs that are choices of routers.
    """
    decoder = OnnxDecoder(path)
    if feeds is None:
        feeds = feeds_of(decoder, probes.windows[:_PROBE_WINDOWS, :_PROBE_TOKENS])
    runs = run_graph(name, decoder, feeds, choices)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, window in enumerate(probes.windows):
        logits, _ = decoder.step(window[None], decoder.empty_cache(1))
        files.append(folder / f"{name}.{number}.npy")
        save_array(files[-1], logits[0])
        progress("window", number + 1, len(probes.windows))
    return _Study(
        runs, files, _continued(decoder, probes), right_words(partial(_all_logits, decoder), probes.texts)
    )


def _all_logits(decoder: OnnxDecoder, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    return decoder.step(ids, decoder.empty_cache(len(ids)))[0]


def _continued(decoder: OnnxDecoder, probes: _Probes) -> list[int]:
    """Continue the prompt by the most likely tokens."""
    tokens: list[int] = []
    with closing(decoder.start(*pad_left([probes.prompt]), probes.new_tokens)) as decoding:
        while True:
            tokens.append(int(decoding.logits.argmax()))
            if len(tokens) == probes.new_tokens or probes.ended(tokens):
                return tokens
            decoding.step(np.array(tokens[-1:], np.int64))


def check_agreement(
    hybrid: GraphRuns,
    dense: GraphRuns,
    reference: PrunedRuns,
    dtype: str,
    measure: Callable[[], Tolerance] | None = None,
) -> Agreement:
    """Compare the hybrid graph with the pruned checkpoint, and the dense graph too, which measures the effect of pruning.

    Raises AccuracyError (exit code 3) if hybrid and checkpoint differ by more than rounding explains, and if a logit of
    either is not finite. measure: see `compare_runs`.
    """
    found = compare_runs(hybrid, reference, dtype, measure)
    if found.error is None:
        raise AccuracyError(
            "Logits of the hybrid ONNX or of the pruned checkpoint are not finite",
            f"An activation of the pruned model exceeds what {dtype} holds.",
            "Choose bf16 (--dtype bfloat16), or leave the linear before it dense with --exclude.",
        )
    if not found.passed:
        raise AccuracyError(
            f"The hybrid ONNX differs from the pruned checkpoint by {found.error:.2e} of the largest logit",
            f"Rounding explains {found.tolerance.share:.2e}: {tolerance_words(found.tolerance)}.",
            "This is a fault of the compiler: please report it with the model's config.json and the recipe.",
        )
    error = relative_error(dense.logits, reference.logits)
    return Agreement(
        error=found.error, tolerance=found.tolerance, dense_error=error, feeds=len(reference.logits)
    )


def _room(source: Source, prompt: list[int]) -> int:
    """Returns the most tokens of the sentence that continues the prompt."""
    positions = source.sequences.positions if source.sequences else None
    return _SENTENCE_TOKENS if positions is None else min(_SENTENCE_TOKENS, positions - len(prompt))


def _ended(tokenizer: Any, tokens: list[int]) -> bool:
    """Returns True at the end of a sentence, or where the model ends the text."""
    text = tokenizer.decode(tokens)
    return tokens[-1] == tokenizer.eos_token_id or text.rstrip(" ")[-1:] in (".", "!", "?", "\n")


def _text(tokenizer: Any, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True)).rstrip()


def compare_logits(dense: list[Path], hybrid: list[Path], windows: NDArray[np.int64]) -> Predictions:
    """Compare the logits of two models. Each has one file `[length, vocabulary]` per window of tokens `[count, length]`.

    Raises LogitsError with the name of the model if logits are not finite.
    """
    found = Predictions()
    for dense_file, hybrid_file, window in zip(dense, hybrid, windows, strict=True):
        p, q = load_array(dense_file), load_array(hybrid_file)
        check_finite(p, "The dense model")
        check_finite(q, "The hybrid model")
        found.add(torch.from_numpy(p[:-1]), torch.from_numpy(q[:-1]), torch.from_numpy(window[1:]))
    return found
