"""Prints a verification."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from masklearn.quality.record import BesideBaselines
from patch_compile.out.layout import VERIFY_FOLDER
from patch_compile.report.terminal.baselines import baseline_parts
from patch_compile.report.terminal.folding import FoldingTable
from patch_compile.report.terminal.parts import Part

__all__ = ["verified_parts"]

Row = Mapping[str, Any]
_WORST = 8  # linears that are shown
_OUTPUTS = 4  # outputs of a graph that are shown
_NOT_ASKED = "not asked"


def verified_parts(found: Row, out: Path) -> Iterator[Part]:
    """Yield the result of `verify` of a build in `out`.

    It has the three questions, the places of the error, baselines, tasks, texts, checks and the verdict.
    """
    yield from (*_compiled(found["compiled"]), *_pruned(found["pruned"]), *_built(found["built"]))
    yield from _where(found["where"])
    if found["baselines"]:
        yield from baseline_parts(BesideBaselines.model_validate(found["baselines"]))
    yield from _tasks(found["tasks"])
    yield from (*_generated(found["generated"]), *_checks(found["checks"]), *_verdict(found, out))


def _compiled(answer: Row | None) -> Iterator[str]:
    if answer is None:
        yield f"compiled right: {_NOT_ASKED}"
        return
    verdict = "yes" if answer["passed"] else "NO"
    yield (
        f"compiled right: {verdict}, hybrid ONNX and {answer['against']} differ by {_share(answer['error'])} of the largest "
        f"output (allowed {answer['tolerance']:.2e}: {answer['why']})"
    )
    yield from _runs(answer["runs"])
    if not answer["passed"] and (first := answer["first_difference"]):
        where = (
            f"the linear {first['linear']}"
            if first["linear"]
            else f"the node {first['node']} ({first['op']})"
        )
        yield (
            f"  first tensor that differs: {first['tensor']}, made by {where}: {_share(first['error'])} of its "
            f"largest value, where rounding explains {first['tolerance']:.2e}"
        )
    elif not answer["passed"] and len(answer["runs"]) > 1:
        yield "  no tensor differs from the same graph with dense linears: the fault is in the export, or in that limit"


def _runs(runs: Iterable[Row]) -> Iterator[str]:
    yield from (
        f"  {run['name']}: {_share(run['error'])}" for run in runs if run["stats"] or run["error"] is None
    )


def _pruned(answer: Row | None) -> Iterator[str]:
    if answer is None:
        yield f"pruned how much: {_NOT_ASKED}"
    elif "outputs" in answer:
        for one in answer["outputs"][:_OUTPUTS]:
            what = "relative error" if one["floating"] else "share of elements that differ:"
            yield f"pruned how much: {one['output']}: {what} {one['relative']:.3g} against the original"
        if others := [one["relative"] for one in answer["outputs"][_OUTPUTS:]]:
            yield f"pruned how much: {len(others)} more outputs, at most {max(others):.3g}"
        yield f"  {answer['how']}"
    else:
        ppl, logits = answer["perplexity"], answer["logits"]
        yield (
            f"pruned how much: perplexity {ppl['dense']:.2f} dense, {ppl['pruned']:.2f} pruned ({ppl['increase']:+.1%}); "
            f"KL {answer['kl']:.4f} nats a token; same next token at {answer['top1_agreement']:.1%} of positions"
        )
        yield (
            f"  error of a logit: mean {logits['mean']:.3g}, median {logits['median']:.3g}, rms {logits['rms']:.3g}, max "
            f"{logits['max']:.3g}, where the largest is {logits['scale']:.3g}"
        )
        yield f"  {answer['how']}"


def _built(answer: Row | None) -> Iterator[str]:
    if answer is None:
        yield f"built right: {_NOT_ASKED}"
    elif not answer["ran"]:
        yield f"built right: not known here: {answer['why']}"
    else:
        verdict = "yes" if answer["passed"] else "NO"
        yield (
            f"built right: {verdict}, engine and hybrid ONNX differ by {_share(answer['error'])} of the largest logit "
            f"(allowed {answer['tolerance']:.2e}: {answer['why']})"
        )
        yield from _runs(answer["runs"])


def _where(where: Row | None) -> Iterator[Part]:
    if where is None:
        return
    rows = sorted(
        where["linears"], key=lambda row: row["alone"] if _sensitive(row) else row["share"], reverse=True
    )
    table = FoldingTable()
    for header in ("where it went: linear", "error", "share", "alone", "restored"):
        table.add_column(header, no_wrap=True, justify="left" if header.startswith("where") else "right")
    for row in rows[:_WORST]:
        change = (f"{row[key]:+.4f}" if _sensitive(row) else "" for key in ("alone", "restored"))
        table.add_row(row["name"], f"{row['error']:.3f}", f"{row['share']:.1%}", *change)
    yield table
    yield f"{len(rows)} linears, the worst {min(len(rows), _WORST)} shown. {where['how']}"
    blocks = where["blocks"]
    if blocks:
        some = [blocks[i] for i in sorted({*range(0, len(blocks), -(-len(blocks) // 8)), len(blocks) - 1})]
        depth = ", ".join(f"{row['block']}: {row['error']:.3f}" for row in some)
        yield f"relative error of the hidden states behind blocks: {depth}"


def _sensitive(row: Row) -> bool:
    return row["alone"] is not None


def _tasks(tasks: Row | None) -> Iterator[Part]:
    if tasks is None:
        return
    table = FoldingTable()
    for header in ("task", "metric", "dense", "pruned", "items"):
        table.add_column(header, no_wrap=True, justify="left" if header in ("task", "metric") else "right")
    for row in tasks["rows"]:
        figures = (_with_error(row[kind], row[f"{kind}_stderr"]) for kind in ("dense", "pruned"))
        table.add_row(row["task"], row["metric"], *figures, str(row["samples"]))
    yield table
    yield f"{tasks['harness']}, {tasks['backend']}"
    yield from (f"note: {note}" for note in tasks["notes"])


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.4g}" if error is None else f"{value:.4g} ±{error:.2g}"


def _generated(texts: Iterable[Row]) -> Iterator[str]:
    for text in texts:
        yield f"prompt: {text['prompt']}"
        yield f"  dense:  {text['dense']!r}"
        yield f"  hybrid: {text['pruned']!r}"
        yield f"  the first {text['same_tokens']} of {text['tokens']} tokens are the same"


def _checks(checks: Iterable[Row]) -> Iterator[str]:
    for check in checks:
        verdict, side = (
            ("holds" if check["passed"] else "FAILS"),
            ("at least" if check["at_least"] else "at most"),
        )
        yield f"{check['ask']} {verdict}: {check['what']} is {check['value']:.4g}, {side} {check['limit']:.4g} is asked"


def _verdict(found: Row, out: Path) -> Iterator[str]:
    seconds = sum(found["seconds"].values())
    verdict = "PASSED" if found["passed"] else "FAILED"
    yield f"{verdict} in {seconds:.0f} s; answers, inputs and outputs: {out / VERIFY_FOLDER}"


def _share(error: float | None) -> str:
    return "not finite" if error is None else f"{error:.2e}"
