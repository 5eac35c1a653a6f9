"""Sections and one-line descriptions of the results of all commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from patch_compile.artifacts.bench import BenchReport
from patch_compile.artifacts.command_results import (
    CompareReport,
    CompiledAnswer,
    ExportedAnswer,
    ImportedAnswer,
    LearnedAnswer,
    ReducedLinear,
)
from patch_compile.artifacts.plan_of_model import PlanOfModel
from patch_compile.artifacts.report import DecoderReport, OutputsReport
from patch_compile.artifacts.verify import VerifyReport
from patch_compile.inspection import Inspection
from patch_compile.report.bench import benched
from patch_compile.report.build import (
    compared,
    compiled_model,
    exported,
    finished,
    imported,
    learned,
    plugin,
    reduced,
)
from patch_compile.report.inspect import examined, generated, inspected
from patch_compile.report.number_format import bytes_of
from patch_compile.report.plan import planned
from patch_compile.report.section import Section
from patch_compile.report.verify import verified
from patch_compile.runtime.run import Continuations


def told(report: Any, path: Path = Path(), *, every: bool = False) -> tuple[str, Iterator[Section]]:
    """Returns a one-line description of a result, and the sections that its command prints.

    path: the file or folder that was read or written; every: name all linears and tensors.
    """
    match report:
        case DecoderReport(perplexity=ppl):
            quality = f"perplexity {ppl.dense:.2f} → {ppl.pruned:.2f}"
            return f"{path}, ratio {report.ratio:.3f}, {quality}", finished(report)
        case OutputsReport():
            return f"{path}, ratio {report.ratio:.3f}", finished(report)
        case VerifyReport():
            return f"{path}, {report.outcome.words}", verified(report, path)
        case BenchReport():
            return f"{path}, timed on {report.device.name} with {report.runner.words}", benched(report, path)
        case CompareReport():
            return f"{len(report.builds)} builds of {report.model.name}", compared(report)
        case PlanOfModel(model=model, whole=whole):
            speed = f", {whole.end_to_end.speedup:.2f}× as fast on {report.card}" if whole else ""
            fits = speed if report.memory.fits else ", does not fit"
            return f"{model}, ratio {report.ratio:.3f}{fits}", planned(report, every=every)
        case LearnedAnswer():
            return f"{path}, ratio {report.ratio:.3f} by {report.method}", learned(report)
        case CompiledAnswer(onnx=onnx):
            words = f"{onnx.path}, ratio {report.ratio:.3f}, {bytes_of(onnx.bytes)}"
            return words, compiled_model(report)
        case ImportedAnswer():
            return f"{path}, ratio {report.ratio:.3f} from {report.format}", imported(report)
        case ExportedAnswer():
            return f"{path}, {report.format}, {bytes_of(report.bytes)}", exported(report)
        case ReducedLinear():
            return f"{path}, error {report.error}", reduced(report)
        case Inspection(faults=faults):
            broken = f", {len(faults)} faults" if faults else ""
            return f"{report.path}: {report.kind}{broken}", inspected(report, every=every)
        case Continuations():
            return f"{len(report.completions)} continued by {report.runner}", generated(report)
        case {"can": can}:
            return f"can {'; '.join(can) or 'do nothing'}", examined(report)
    return f"{path} for {report['backend']}", plugin(report)
