"""Sections and one-line descriptions of the results of all commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from patch_compile.artifacts.bench import BenchReport
from patch_compile.artifacts.command_results import (
    CompiledAnswer,
    ExportedAnswer,
    ImportedAnswer,
    LearnedAnswer,
    ReducedLinear,
)
from patch_compile.artifacts.compare import CompareReport
from patch_compile.artifacts.plan_of_model import PlanOfModel
from patch_compile.artifacts.report import DecoderReport, OutputsReport
from patch_compile.artifacts.verify import VerifyReport
from patch_compile.inspection import Inspection
from patch_compile.report.bench import benched
from patch_compile.report.build import compiled_model, exported, finished, imported, learned, plugin, reduced
from patch_compile.report.compare import compared
from patch_compile.report.inspect import examined, generated, inspected
from patch_compile.report.number_format import bytes_of
from patch_compile.report.plan import planned
from patch_compile.report.section import Section
from patch_compile.report.verify import verified
from patch_compile.runtime.run import Continuations


def sections_of(report: Any, path: Path = Path(), *, every: bool = False) -> Iterator[Section]:
    """Returns the sections that a command prints. path: the file or folder that it read or wrote; every: name all linears,
    nodes and tensors."""
    match report:
        case DecoderReport() | OutputsReport():
            return finished(report, every=every)
        case VerifyReport():
            return verified(report, path)
        case BenchReport():
            return benched(report, path)
        case CompareReport():
            return compared(report)
        case PlanOfModel():
            return planned(report)
        case LearnedAnswer():
            return learned(report)
        case CompiledAnswer():
            return compiled_model(report)
        case ImportedAnswer():
            return imported(report)
        case ExportedAnswer():
            return exported(report)
        case ReducedLinear():
            return reduced(report)
        case Inspection():
            return inspected(report, every=every)
        case Continuations():
            return generated(report)
        case {"findings": _}:
            return examined(report)
    return plugin(report)


def summary_of(report: Any, path: Path) -> str:
    match report:
        case DecoderReport(ratio=ratio) | OutputsReport(ratio=ratio):
            ppl = report.perplexity if isinstance(report, DecoderReport) else None
            quality = f", perplexity {ppl.dense:.2f} → {ppl.hybrid:.2f}" if ppl else ""
            return f"{path}, ratio {ratio.reached:.3f}{quality}"
        case VerifyReport():
            return f"{path}, {report.outcome.words}"
        case BenchReport():
            return f"{path}, timed on {report.device.name} with {report.runner.words}"
        case CompareReport():
            return f"{len(report.builds)} builds, not beaten: {', '.join(report.pareto) or 'none'}"
        case PlanOfModel(model=model, whole=whole):
            speed = f", {whole.end_to_end.speedup:.2f}× as fast on {report.card}" if whole else ""
            return f"{model}, ratio {report.ratio:.3f}{speed if report.memory.fits else ', does not fit'}"
        case LearnedAnswer():
            return f"{path}, ratio {report.ratio.reached:.3f} by {report.method}"
        case CompiledAnswer(onnx=onnx):
            return f"{onnx.path}, ratio {report.ratio.reached:.3f}, {bytes_of(onnx.bytes)}"
        case ImportedAnswer():
            return f"{path}, ratio {report.ratio:.3f} from {report.format}"
        case ExportedAnswer():
            return f"{path}, {report.format}, {bytes_of(report.bytes)}"
        case ReducedLinear():
            return f"{path}, error {report.error}"
        case Inspection(faults=faults):
            return f"{report.path}: {report.kind}{f', {len(faults)} faults' if faults else ''}"
        case Continuations():
            return f"{len(report.completions)} continued by {report.runner}"
        case {"can": can}:
            return f"can {'; '.join(can) or 'do nothing'}"
    return f"{path} for {report['backend']}"
