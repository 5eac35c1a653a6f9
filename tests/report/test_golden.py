"""The output of each command and the text of the page, compared with golden files that `GOLDEN=write` writes."""

import os
import re
from collections.abc import Callable
from functools import partial
from html import unescape
from pathlib import Path

import pytest

from patch_compile.api.commands import plan
from patch_compile.api.results import (
    Compared,
    Compiled,
    FinishedBuild,
    ImportedMasks,
    Inspected,
    LearnedMasks,
    Result,
    Verified,
)
from patch_compile.artifacts.command_results import (
    BuildRow,
    CompareReport,
    CompiledAnswer,
    ExportedAnswer,
    ImportedAnswer,
    Measure,
    PredictedFor,
    PredictedSpeeds,
    QualityOfAll,
)
from patch_compile.artifacts.manifest import ModelOrigin
from patch_compile.artifacts.prediction import CardRow, Workload
from patch_compile.artifacts.proof import OutputDifference, OutputsDifference
from patch_compile.artifacts.report import Kind, read_report
from patch_compile.inspection import Inspection
from patch_compile.report.terminal import show
from tests.artifacts.benched import benched
from tests.artifacts.examples import EMBEDDINGS, TOLERANCE, outputs_report
from tests.conftest import write_model
from tests.report.answers import answer, beside_baselines
from tests.report.page.found import verified
from tests.report.page.outs import Out, llama_shapes, write_page
from tests.report.words import all_words

GOLDEN = Path(__file__).parent / "golden"
SHAPES = llama_shapes(2, 256, 128, 384)


def of_build(folder: Path) -> Result:
    report = read_report(Out(folder, SHAPES).write())
    assert report is not None
    return FinishedBuild(report, folder)


def of_outputs(folder: Path) -> Result:
    outputs = [
        OutputDifference(output=f"y{i}", largest=0.2, relative=0.6 - i / 10, floating=i != 1)
        for i in range(6)
    ]
    return FinishedBuild(outputs_report(folder, OutputsDifference(outputs=tuple(outputs)), TOLERANCE), folder)


def of_encoder(folder: Path) -> Result:
    hidden = OutputDifference(output="last_hidden_state", largest=0.4, relative=0.312, floating=True)
    report = outputs_report(folder, OutputsDifference(outputs=(hidden,)), TOLERANCE, kind=Kind.ENCODER)
    return FinishedBuild(report.model_copy(update={"embeddings": EMBEDDINGS}), folder)


def of_compile(folder: Path) -> Result:
    report = read_report(Out(folder, SHAPES).write())
    names = set(CompiledAnswer.model_fields) - {"path"}
    return Compiled(
        CompiledAnswer(path="out", **{name: getattr(report, name) for name in names}), Path("out")
    )


def of_compare(_: Path) -> Result:
    row = BuildRow(
        name="sweeps/of-monday/r0.1-of-smollm2-135m", path="/builds/r0", method="wanda", permuted=True, repaired=False,
        ratio=0.5, quality=11.0, increase=0.1, bytes=229_000_000,
        predicted=PredictedSpeeds(prefill=0.97, decode=1.31, end_to_end=1.28),
    )  # fmt: skip
    worse = row.model_copy(
        update={"name": "r1", "method": "patch-unstructured", "quality": 140.25, "increase": 13.025}
    )
    return Compared(CompareReport(
        model=ModelOrigin(path="/models/m", sha256="ab" * 32),
        quality=QualityOfAll(measure=Measure.PERPLEXITY, on="text", dense=10.0),
        predicted_for=PredictedFor(card=CardRow(name="A6000"), workload=Workload(batch=1, prompt=128, generated=128)),
        builds=(row, worse), dense_bytes=330_000_000,
    ))  # fmt: skip


def of_plan(folder: Path, architecture: str = "llama") -> Result:
    model = write_model(folder / "model", architecture, hidden_size=512, intermediate_size=1536)
    return plan(model, ratio=0.4, target="a6000")


def of_import(_: Path) -> Result:
    made = answer(2)
    return ImportedMasks(ImportedAnswer(path="masks.safetensors", linears=made.linears, skipped=made.skipped, ratio=0.5,
                                        zeros=0.49, format="maskllm", notes=()), Path("masks.safetensors"))  # fmt: skip


def of_export(_: Path) -> Result:
    return Result(ExportedAnswer(path="out/compressed-tensors", format="compressed-tensors",
                                   linears={"int8": 168, "16-bit": 42}, bytes=135_000_000, model_bytes=269_000_000,
                                   notes=(), seconds={"write": 3.0}), Path("out/compressed-tensors"))  # fmt: skip


def of_inspect(_: Path) -> Result:
    rows = [{"name": f"model.layers.{i}.mlp.up_proj", "shape": (1536, 576), "ratio": 0.25 * i, "bytes": 1769472}
            for i in range(2)]  # fmt: skip
    facts = {"ratio": 0.4, "seed": 0, "notes": []}
    return Inspected(Inspection(path=Path("out/masks.safetensors"), kind="masks", facts=facts,
                                rows=rows, faults=["a tile is missing"], checked="every tile"))  # fmt: skip


def of_doctor(_: Path) -> Result:
    findings = [{"what": "GPU", "found": False, "about": "none", "fix": "Use a machine with an NVIDIA GPU."},
                {"what": "ONNX Runtime", "found": True, "about": "1.23.2", "fix": ""}]  # fmt: skip
    return Result({"findings": findings, "can": ["build ONNX files"], "cannot": ["build engines"]})


COMMANDS: dict[str, Callable[[Path], Result]] = {
    "bench": lambda _: Result(benched(), Path("out")),
    "build": of_build,
    "build-encoder": of_encoder,
    "build-outputs": of_outputs,
    "compare": of_compare,
    "compile": of_compile,
    "doctor": of_doctor,
    "export": of_export,
    "import-mask": of_import,
    "inspect": of_inspect,
    "learn": lambda _: LearnedMasks(answer(baselines=beside_baselines("uniform-2:4")), Path("out")),
    "plan": of_plan,
    "plan-encoder-table": partial(of_plan, architecture="bert"),
    "plan-table": of_plan,
    "verify": lambda folder: Verified(verified(Out(folder, SHAPES)), Path("out")),
}


def compare_with_golden(name: str, said: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(said)
    assert said == path.read_text(), "If the change is meant, run `GOLDEN=write make test-full`."


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_prints_its_golden_file(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = COMMANDS[command](tmp_path)
    show(result.sections(every=command.endswith("table")))
    said = f"{result.summary()}\n{capsys.readouterr().out}".replace(str(tmp_path), "DIR")
    compare_with_golden(command, "\n".join(map(str.rstrip, said.splitlines())) + "\n")


BLOCKS = "section|article|p|h1|h2|h3|li|dt|tr|caption|summary|pre|header|title|desc|text"


def page_text(path: Path) -> str:
    """The text that a reader of the page sees, a line for each block, with the texts of charts."""
    source = re.sub(r"<(style|script).*?</\1>", "", path.read_text(), flags=re.S)
    source = re.sub(rf"\s*<({BLOCKS})\b", r"\n<\1", re.sub(r"\s+", " ", source))
    source = re.sub(r"</?(td|th|dd)\b", r" <\1", source)
    lines = (re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", line)).strip() for line in source.split("\n"))
    return "\n".join(unescape(line) for line in lines if line) + "\n"


@pytest.mark.parametrize("name", ["page", "page-of-build"])
def test_the_page_says_its_golden_file(name, tmp_path):
    out = Out(tmp_path / "out", SHAPES)
    found = (verified(out), benched()) if name == "page" else ()
    said = page_text(write_page(out.write(*found)))
    compare_with_golden(name, re.sub(r"\b[0-9a-f]{64}\b", "SHA256", said.replace(str(tmp_path), "DIR")))


def test_every_sentence_is_in_its_golden_file(tmp_path):
    compare_with_golden("words", "\n".join(all_words(tmp_path)) + "\n")
