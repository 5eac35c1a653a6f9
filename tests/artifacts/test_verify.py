"""verify.json is read as it is written, and another version or content is refused by name."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from patch_compile.artifacts.proof import OutputDifference, OutputsDifference
from patch_compile.artifacts.verify import EngineNotRun, NotRun, PrunedPerplexity, Question, VerifyReport
from tests.refusals import refused
from tests.report.page.found import verified
from tests.report.page.outs import Out


@pytest.fixture
def out(tmp_path: Path) -> Path:
    made = Out(tmp_path / "out")
    return made.write(verified(made))


@pytest.mark.parametrize(
    "changed",
    [
        {"built": {"ran": True, "reason": "no-engine"}},
        pytest.param({"text": {"name": "a", "path": None, "windows": 8}}, id="no length"),
    ],
)
def test_other_content_is_refused_by_name(out: Path, changed: dict[str, Any]) -> None:
    path = out / "verify/verify.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with refused():
        VerifyReport.of(out)


def test_questions_stay_open_until_answered(out: Path) -> None:
    found = VerifyReport.read(out / "verify/verify.json")
    assert found.built == EngineNotRun(
        reason=NotRun.NOT_HERE, error="an engine for sm86 runs on such a GPU alone"
    )
    assert found.unanswered == (Question.BUILT,)
    assert found.model_copy(update={"asked": (Question.COMPILED,)}).unanswered == ()


def test_json_has_no_infinity(out: Path) -> None:
    torn = OutputDifference(output="boxes", largest=float("inf"), relative=float("inf"), floating=True)
    other = OutputDifference(output="scores", largest=0.1, relative=0.2, floating=True)
    assert torn.relative is None
    both = OutputsDifference(outputs=(other, torn))
    assert both.worst == torn and both.relative is None
    assert OutputsDifference(outputs=(other,)).relative == 0.2
    found = VerifyReport.read(out / "verify/verify.json")
    overflowed = found.pruned.model_copy(update={"perplexity": PrunedPerplexity(dense=9.0, pruned=math.inf)})
    found.model_copy(update={"pruned": overflowed}).write(out / "verify/verify.json")
    again = VerifyReport.read(out / "verify/verify.json")
    assert again.pruned == overflowed and again.pruned.perplexity.pruned == math.inf
