"""Proof of a build: agreement of the compiled model, loss of quality by pruning, and a sentence by each model."""

from __future__ import annotations

import math
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

from masklearn import Predictions, compare_models
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.pretrained import token_ids
from patch_compile.artifacts.proof import (
    PROMPT,
    Agreement,
    BuildPerplexity,
    OutputsProof,
    PredictionsDifference,
    ProofText,
    Sentence,
    TextWindows,
    TokensProof,
    Tolerance,
    WindowAgreement,
)
from patch_compile.errors import AccuracyError
from patch_compile.onnx_io.runnable import decoded_onnx, runnable_onnx
from patch_compile.onnx_io.tensor_names import INPUT_IDS, TOKEN_INPUTS
from patch_compile.progress import Progress, Update
from patch_compile.report.verify import tolerance_words
from patch_compile.runtime.decoder import pad_left, positions_of
from patch_compile.runtime.onnx_decoder import OnnxDecoder
from patch_compile.sources.base import OutputSource, Source, TokenSource
from patch_compile.verification.compare_runs import (
    GraphRuns,
    PrunedRuns,
    compare_runs,
    feeds_of,
    measured_tolerance,
    note_memory,
    relative_error,
    run_graph,
    run_pruned,
)
from patch_compile.verification.graph_outputs import with_all_logits, with_choices
from patch_compile.verification.last_words import LastWord, compare_words, last_words, right_words
from patch_compile.verification.outputs import compare_outputs

_PROBE_WINDOWS, _PROBE_TOKENS = 2, 96
_SENTENCE_TOKENS = 40
_STREAMED_TOKENS = 10  # of a model that is read from the disk for each of them
_PART = 256  # tokens of a window whose logits are compared at a time


def prove(
    source: Source, hybrid: Path, pruned: Path, packed: Sequence[str], scratch: Path, progress: Progress
) -> TokensProof | OutputsProof:
    """Compare hybrid, pruned and dense model.

    packed: names of the linears that are compiled. What takes much memory is written to `scratch` and removed. Raises
    AccuracyError if the hybrid model was not compiled right.
    """
    shutil.rmtree(scratch, ignore_errors=True)  # left by an interrupted run
    scratch.mkdir(parents=True)
    proof: TokensProof | OutputsProof
    if isinstance(source, OutputSource):
        proof, fault = compare_outputs(source, hybrid, pruned, packed, scratch, progress)
        if fault:
            raise fault
    else:
        assert isinstance(source, TokenSource), "other graphs are only compiled"
        proof = _prove_next_tokens(source, hybrid, pruned, scratch, progress)
    shutil.rmtree(scratch)
    return proof


@dataclass(frozen=True)
class _Prompt:
    """Token ids to continue, until `ended(new tokens)` is true or `new_tokens` are generated."""

    ids: list[int]
    new_tokens: int
    ended: Callable[[list[int]], bool]

    def continued(self, following: Callable[[list[int]], int]) -> list[int]:
        """Returns new token ids. following: returns the most likely token after the prompt and these new tokens."""
        tokens: list[int] = []
        while True:
            tokens.append(following(tokens))
            if len(tokens) == self.new_tokens or self.ended(tokens):
                return tokens


@dataclass(frozen=True)
class _Study:
    """Answers of the hybrid graph. probes: runs on short inputs; window: a run on a whole window; continuation: new token
    ids; right: for each text whether its last word was found."""

    probes: GraphRuns
    window: GraphRuns
    continuation: list[int]
    right: list[bool]


def _prove_next_tokens(
    source: TokenSource, hybrid_path: Path, pruned: Path, scratch: Path, progress: Progress
) -> TokensProof:
    tokenizer = source.tokenizer
    windows, text = source.evaluation(progress)
    positions = source.sequences.positions
    ids = token_ids(tokenizer, PROMPT)[: positions and positions - 1] or [0]  # one more is generated
    prompt = _Prompt(ids, _room(source, ids), partial(_ended, tokenizer))
    texts = last_words(tokenizer, positions)
    note_memory(source, progress)
    with (
        with_all_logits(hybrid_path) as full,
        progress.stage("hybrid on ONNX Runtime") as update,
        with_choices(decoded_onnx(runnable_onnx(full, scratch), scratch, update)) as (graph, choices),
    ):
        update("running", 0, 1)
        decoder = OnnxDecoder(graph, mapped=not source.fits_in_memory)
        hybrid = _study(decoder, windows, prompt, texts, choices)
        del decoder
    with progress.stage("pruned reference"):
        agreement, reference = _agreement(source, pruned, hybrid)
    with progress.stage("dense reference"):
        dense = _dense_answers(source, hybrid.probes, reference, prompt, texts)
    with progress.stage("pruned against dense") as update:
        found = _predictions(source, pruned, windows, update, scratch)
    count, length = windows.shape
    on = TextWindows(name=text.name, windows=count, length=length, dtype="float32", runner="checkpoints")
    return TokensProof(
        text=ProofText(eval=text),
        perplexity=BuildPerplexity(dense=found.perplexity[0], pruned=found.perplexity[1], on=on),
        agreement=agreement.model_copy(update={"dense_error": dense.error}),
        difference=PredictionsDifference(
            kl=found.kl / found.tokens, top1_agreement=found.same_top1 / found.tokens
        ),
        generated=Sentence(
            prompt=PROMPT,
            dense=_text(tokenizer, dense.continuation),
            hybrid=_text(tokenizer, hybrid.continuation),
        ),
        last_words=compare_words(dense.right, hybrid.right),
    )


def _study(
    decoder: OnnxDecoder,
    windows: NDArray[np.int64],
    prompt: _Prompt,
    texts: Sequence[LastWord],
    choices: Sequence[str],
) -> _Study:
    """Ask the hybrid graph all questions. choices: names of the outputs that are choices of routers."""
    probes = feeds_of(decoder, windows[:_PROBE_WINDOWS, :_PROBE_TOKENS])
    window = decoder.feed(windows[:1], decoder.empty_cache(1))
    with closing(decoder.start(*pad_left([prompt.ids]), prompt.new_tokens)) as decoding:

        def following(new: list[int]) -> int:
            if new:
                decoding.step(np.array(new[-1:], np.int64))
            return int(decoding.logits.argmax())

        continuation = prompt.continued(following)
    short, whole = (run_graph("hybrid", decoder, feeds, choices) for feeds in (probes, [window]))
    right = right_words(lambda ids: decoder.step(ids, decoder.empty_cache(len(ids)))[0], texts)
    return _Study(short, whole, continuation, right)


def _agreement(source: TokenSource, pruned: Path, hybrid: _Study) -> tuple[Agreement, PrunedRuns]:
    """Returns the agreement with the pruned checkpoint, and the checkpoint's answers to the probes."""
    logits, dtype = source.reference_logits(pruned), source.recipe.dtype
    probes, window = (run_pruned(source, logits, runs) for runs in (hybrid.probes, hybrid.window))
    del logits  # measuring a tolerance takes its memory
    measure = partial(measured_tolerance, source, pruned)
    found = check_agreement(hybrid.probes, probes, dtype, partial(measure, hybrid.probes, probes))
    return with_window(found, hybrid.window, window, dtype, partial(measure, hybrid.window, window)), probes


@dataclass(frozen=True)
class _Dense:
    """Answers of the dense model. error: against the pruned model's logits; the others: see `_Study`."""

    error: float
    continuation: list[int]
    right: list[bool]


def _dense_answers(
    source: TokenSource, probes: GraphRuns, reference: PrunedRuns, prompt: _Prompt, texts: Sequence[LastWord]
) -> _Dense:
    """Ask the dense model, which transformers runs. reference: the pruned model's answers to the probes."""
    logits = source.reference_logits(source.model)
    cache = {name: value for name, value in probes.feeds[0].items() if name not in TOKEN_INPUTS}  # is empty

    def of_tokens(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        mask = np.ones_like(ids)
        tokens = dict(zip(TOKEN_INPUTS, (ids, mask, positions_of(mask, ids.shape[1])), strict=True))
        return logits(tokens | {name: np.repeat(value, len(ids), axis=0) for name, value in cache.items()})

    def following(new: list[int]) -> int:
        return int(of_tokens(np.array([prompt.ids + new], np.int64))[0, -1].argmax())

    error = relative_error(map(logits, probes.feeds), reference.logits)
    return _Dense(error, prompt.continued(following), right_words(of_tokens, texts))


def _predictions(
    source: TokenSource, pruned: Path, windows: NDArray[np.int64], progress: Update, scratch: Path
) -> Predictions:
    """Compare the predictions of both checkpoints on all windows."""
    dense, other, device = source.checkpoint, Checkpoint.open(pruned), source.recipe.device
    found = compare_models(dense, other, (), windows, device, progress, scratch, with_logits=False)
    assert found.predictions is not None, "a decoder predicts"
    return found.predictions


def check_agreement(
    hybrid: GraphRuns, reference: PrunedRuns, dtype: str, measure: Callable[[], Tolerance] | None = None
) -> Agreement:
    """Compare the hybrid graph with the pruned checkpoint.

    Raises AccuracyError (exit code 3) if they differ by more than rounding explains, and if a logit of either is not
    finite. measure: see `compare_runs`.
    """
    found = compare_runs(hybrid, reference, dtype, measure)
    _check(found.error, found.tolerance, dtype, passed=found.passed)
    return Agreement(error=found.error, tolerance=found.tolerance, feeds=len(reference.logits))


def with_window(
    found: Agreement,
    hybrid: GraphRuns,
    reference: PrunedRuns,
    dtype: str,
    measure: Callable[[], Tolerance],
) -> Agreement:
    """Compare a run on a whole window of text too, a part at a time: its logits are as large as the model.

    Raises AccuracyError as `check_agreement` does.
    """
    ids = hybrid.feeds[0][INPUT_IDS][0]
    mine, theirs = (
        [runs.logits[0][0, i : i + _PART] for i in range(0, len(ids), _PART)] for runs in (hybrid, reference)
    )
    error, tolerance = max(relative_error(mine, theirs), reference.lost), found.tolerance
    if error > tolerance.share:
        tolerance = max(tolerance, measure(), key=lambda one: one.share)
    _check(error, tolerance, dtype, passed=error <= tolerance.share)
    compared, labels = Predictions(), torch.from_numpy(ids[1:])
    for i, (p, q) in enumerate(zip(theirs, mine, strict=True)):
        following = labels[i * _PART : (i + 1) * _PART]
        count = len(following)
        compared.add(torch.from_numpy(p[:count]), torch.from_numpy(q[:count]), following)
    pruned, compiled = compared.perplexity
    window = WindowAgreement(tokens=len(ids), hybrid=compiled, pruned=pruned)
    changed = {"error": max(found.error or 0.0, error), "tolerance": tolerance, "feeds": found.feeds + 1}
    return found.model_copy(update={**changed, "window": window})


def _check(error: float | None, tolerance: Tolerance, dtype: str, *, passed: bool) -> None:
    if error is None or not math.isfinite(error):
        raise AccuracyError(
            "Logits of the hybrid ONNX or of the pruned checkpoint are not finite",
            f"An activation of the pruned model exceeds what {dtype} holds.",
            "Choose bf16 (--dtype bfloat16), or leave the linear before it dense with --exclude.",
        )
    if not passed:
        raise AccuracyError(
            f"The hybrid ONNX differs from the pruned checkpoint by {error:.2e} of the largest logit",
            f"Rounding explains {tolerance.share:.2e}: {tolerance_words(tolerance)}.",
            "This is a fault of the compiler: please report it with the model's config.json and the recipe.",
        )


def _room(source: TokenSource, prompt: list[int]) -> int:
    """Returns the most tokens of the sentence that continues the prompt."""
    positions = source.sequences.positions
    most = _SENTENCE_TOKENS if source.fits_in_memory else _STREAMED_TOKENS
    return most if positions is None else min(most, positions - len(prompt))


def _ended(tokenizer: Any, tokens: list[int]) -> bool:
    """Returns True at the end of a sentence, or where the model ends the text."""
    text = tokenizer.decode(tokens)
    return tokens[-1] == tokenizer.eos_token_id or text.rstrip(" ")[-1:] in (".", "!", "?", "\n")


def _text(tokenizer: Any, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=True)).rstrip()
