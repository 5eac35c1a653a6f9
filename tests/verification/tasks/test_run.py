"""A user's own tasks run on the dense and the pruned model of a tiny build, by both backends."""

import sys
from pathlib import Path
from typing import Any

import pytest

from patch_compile.artifacts.folder import OutFolder
from patch_compile.artifacts.verify_schema import TaskScores
from patch_compile.report.quality import tasks
from patch_compile.verification.request import VerifyRequest
from patch_compile.verification.tasks.run import run_tasks
from tests.builds import recipe_alone
from tests.conftest import ModelMaker
from tests.refusals import refused

ALL = ["choose", "follow", "roll", "write"]


def ask(out: OutFolder, names: list[str], backend: Any = "onnx", **settings: Any) -> TaskScores:
    note = settings.pop("note", lambda _: None)
    request = VerifyRequest.parse({"tasks": names, "task_backend": backend, **settings})
    return run_tasks(out, request, lambda *_: None, note)


@pytest.fixture(scope="session")
def answers(tiny_out: OutFolder, task_folder: Path) -> dict[str, TaskScores]:
    return {backend: ask(tiny_out, ALL, backend, task_folder=task_folder) for backend in ("hf", "onnx")}


@pytest.mark.parametrize("backend", ["hf", "onnx"])
def test_the_rows_are_those_of_the_schema(answers: dict[str, TaskScores], backend: str) -> None:
    found = answers[backend]
    assert found.harness.startswith("lm-eval 0.4.") and found.backend == backend
    by_name = {(row.task, row.metric): row for row in found.rows}
    assert set(by_name) >= {
        ("choose", "acc"),
        ("choose", "acc_norm"),
        ("follow", "perplexity"),
        ("roll", "word_perplexity"),
        ("write", "exact_match"),
    }
    assert all(row.samples == 12 for row in found.rows)
    follow, roll = by_name["follow", "perplexity"], by_name["roll", "byte_perplexity"]
    assert follow.dense != follow.pruned and follow.dense_stderr
    assert roll.dense != roll.pruned and roll.dense_stderr is None


def test_the_backends_agree_to_rounding(answers: dict[str, TaskScores]) -> None:
    for hf, onnx in zip(answers["hf"].rows, answers["onnx"].rows, strict=True):
        assert (hf.task, hf.metric) == (onnx.task, onnx.metric)
        # transformers computes in fp32, the ONNX file in fp16
        assert (onnx.dense, onnx.pruned) == pytest.approx((hf.dense, hf.pruned), rel=0.01)


def test_rows_bring_their_notes(answers: dict[str, TaskScores]) -> None:
    notes = tasks(answers["onnx"]).lines
    assert notes[0] == "tasks: asked as plain text; the model has a chat template, which is not applied"
    assert any(n.startswith("choose, acc: ") and n.endswith(" 12 items") for n in notes)


def test_a_limit_takes_the_first_documents(
    tiny_out: OutFolder, task_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    found = ask(tiny_out, ["choose", "builtin"], task_limit=3, task_folder=task_folder, note=told.append)
    assert {row.samples for row in found.rows} == {3}
    cut = "tasks: the first 3 documents of choose, builtin-choice, builtin-continuation, not all"
    assert cut in told and cut in tasks(found).lines
    assert capfd.readouterr() == ("", "")


def test_files_of_a_run_are_gone_after_it(tiny_out: OutFolder, answers: dict[str, TaskScores]) -> None:
    left = {path.relative_to(tiny_out.path).as_posix() for path in tiny_out.path.rglob("*") if path.is_file()}
    assert left == {*tiny_out.manifest.files, "manifest.json"}


def test_without_the_harness_its_extra_is_named(tiny_out: OutFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # as on a machine without it
    with refused():
        ask(tiny_out, ["builtin"])


def test_an_encoder_predicts_no_text(make_model: ModelMaker, tmp_path: Path) -> None:
    out = recipe_alone(tmp_path / "out", make_model("bert"))
    with refused():
        ask(out, ["builtin"])


def test_masks_alone_have_no_onnx_file(tiny_out: OutFolder) -> None:
    learned = OutFolder(tiny_out.path.parent / "learned", {})
    learned.path.mkdir()
    (learned.path / "recipe.yaml").write_text((tiny_out.path / "recipe.yaml").read_text())
    with refused():
        ask(learned, ["builtin-choice"], task_limit=1)
