import json
from pathlib import Path
from typing import Any

import pytest

from patch_compile.artifacts.report import DecoderReport, Kind, read_report
from tests.refusals import refused
from tests.report.page.outs import Out


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return Out(tmp_path / "out").write()


def test_what_is_written_is_read(out: Path) -> None:
    report = read_report(out)
    assert isinstance(report, DecoderReport) and report.kind is Kind.DECODER
    assert read_report(out.parent) is None
    report.write(out / "again.json")
    assert json.loads((out / "again.json").read_text()) == json.loads((out / "report.json").read_text())


@pytest.mark.parametrize(
    "changed",
    [{"schema": 1}, {"kind": "tale"}, {"kind": "onnx"}, {"perplexity": {"dense": 15.68}}, {"remarks": []}],
)
def test_another_version_or_kind_is_refused_by_name(out: Path, changed: dict[str, Any]) -> None:
    path = out / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with refused():
        read_report(out)


def test_a_type_without_a_roundoff_is_refused(out: Path) -> None:
    path = out / "report.json"
    content = json.loads(path.read_text())
    content["agreement"]["tolerance"]["dtype"] = "float1"
    path.write_text(json.dumps(content))
    with refused():
        read_report(out)


@pytest.mark.parametrize(
    ("was", "becomes"), [("412.7", "1e999"), ("tensorrt-rtx", "tensorrt-atx"), ("15.68", "0.0")]
)
def test_values_that_no_build_writes_are_refused(out: Path, was: str, becomes: str) -> None:
    path = out / "report.json"
    text = path.read_text()
    assert was in text
    path.write_text(text.replace(was, becomes))
    with refused():
        read_report(out)
