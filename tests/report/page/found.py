"""verify.json as `verify` writes it with all options."""

import numpy as np

from masklearn import BaselineRow, BesideBaselines
from patch_compile.artifacts.proof import TextWindows
from patch_compile.artifacts.report import Kind
from patch_compile.artifacts.verify import (
    BlockError,
    ComparedRun,
    EngineNotRun,
    ErrorAttribution,
    ErrorStats,
    FigureName,
    LimitCheck,
    LinearError,
    LogitErrorStats,
    NotRun,
    OnnxCheck,
    Outcome,
    PrunedPerplexity,
    PrunedTokens,
    Question,
    TaskDifference,
    TaskRow,
    TaskScores,
    VerifiedText,
    VerifyReport,
)
from tests.artifacts.examples import TOLERANCE
from tests.report.page.outs import Out

_STATS = ErrorStats(max=0.0031, mean=0.00021, median=0.00016, rms=0.00029)
_BASELINES = (
    ("oneshot", 0.4, 22.19, 412.7),
    ("dense", 0.0, 15.68, 0.0),
    ("uniform-2:4", 0.5, 21.4, 120.4),
    ("unstructured", 0.4, 17.6, 140.9),
)


def verified(out: Out) -> VerifyReport:
    """verify/verify.json of a decoder with all questions."""
    return VerifyReport(
        date="2026-11-25T18:00:00+00:00",
        versions={"patch-compile": "0.1.0"},
        kind=Kind.DECODER,
        asked=tuple(Question),
        outcome=Outcome.FAILED,
        text=VerifiedText(
            name="wikitext.txt",
            path="/texts/wikitext.txt",
            sha256="ab" * 32,
            windows=8,
            length=1024,
            tokens=8192,
        ),
        compiled=compiled(),
        pruned=PrunedTokens(
            perplexity=PrunedPerplexity(dense=15.68, pruned=22.19),
            kl=0.331,
            top1_agreement=0.672,
            logits=LogitErrorStats(max=12.1, mean=0.81, median=0.62, rms=1.07, scale=29.4),
            tokens=8192,
            on=TextWindows(
                name="wikitext.txt", windows=8, length=1024, dtype="float32", runner="checkpoints"
            ),
        ),
        built=EngineNotRun(reason=NotRun.NOT_HERE, error="an engine for sm86 runs on such a GPU alone"),
        where=_where(out),
        baselines=baselines(),
        tasks=_tasks(),
        checks=(
            LimitCheck(
                figure=FigureName.PPL,
                ask="ppl:+5%",
                value=22.19,
                limit=16.464,
                at_least=False,
                passed=False,
            ),
            LimitCheck(
                figure=FigureName.TOP1,
                ask="top1:60%",
                value=0.672,
                limit=0.6,
                at_least=True,
                passed=True,
            ),
        ),
        notes=("the engine was not run: there is no GPU here",),
        seconds={"compiled": 31.0, "baselines": 640.2},
    )


def compiled() -> OnnxCheck:
    runs = (
        ComparedRun(phase="prefill", tokens=96, past=0, error=0.0031, stats=_STATS),
        ComparedRun(phase="decode", tokens=1, past=96, error=0.0012, stats=_STATS),
    )
    return OnnxCheck(passed=True, error=0.0031, tolerance=TOLERANCE, runs=runs)


def baselines() -> BesideBaselines:
    rows = (
        BaselineRow(
            name=n,
            ratio=r,
            perplexity=p,
            seconds=s,
            deployable=n != "unstructured",
            bytes_per_weight=2 - 1.75 * r,
        )
        for n, r, p, s in _BASELINES
    )
    return BesideBaselines(
        rows=tuple(rows),
        beaten_by=("uniform-2:4",),
        windows=8,
        length=1024,
        dtype="float32",
    )


def _where(out: Out) -> ErrorAttribution:
    errors = np.random.default_rng(1).uniform(0.05, 0.35, len(out.shapes))
    shares = errors**2 / (errors**2).sum()
    depths = sorted({int(name.split(".")[2]) for name in out.shapes})
    linears = (
        LinearError(
            name=name,
            block=int(name.split(".")[2]),
            kind=name.rpartition(".")[2],
            error=float(error),
            share=float(share),
        )
        for name, error, share in zip(out.shapes, errors, shares, strict=True)
    )
    blocks = (BlockError(block=depth, error=0.04 + 0.31 * (depth / len(depths)) ** 0.7) for depth in depths)
    return ErrorAttribution(linears=tuple(linears), blocks=tuple(blocks))


def _tasks() -> TaskScores:
    choice = TaskRow(
        task="tiny-choice",
        metric="acc",
        filter=None,
        dense=0.62,
        pruned=0.55,
        dense_stderr=0.03,
        pruned_stderr=0.031,
        samples=240,
        difference=TaskDifference(value=-0.07, error=0.02, per_item=True),
    )
    continuation = TaskRow(
        task="tiny-continuation",
        metric="acc",
        filter="strict",
        dense=0.41,
        pruned=0.43,
        dense_stderr=None,
        pruned_stderr=None,
        samples=100,
        difference=None,
    )
    return TaskScores(harness="lm-eval 0.4.13", rows=(choice, continuation), chat_template=False)
