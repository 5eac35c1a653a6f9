"""A user's own tasks run on the dense and the pruned checkpoint of a tiny build."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import AutoTokenizer

from patch_compile.artifacts.verify import TaskScores
from patch_compile.recipe import Recipe
from patch_compile.report.quality import tasks
from patch_compile.verification.request import VerifyRequest
from patch_compile.verification.tasks import run_tasks
from tests.builds import TINY, build
from tests.conftest import WORDS, texts_in, write_model
from tests.refusals import refused

# One task per kind of request, in words that the tokenizer knows.
TASKS: dict[str, dict[str, Any]] = {
    "choose": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
    },
    "follow": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{' ' + choices[0]}}",
        "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
    },
    "roll": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"},
    "write": {
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"max_gen_toks": 6, "until": ["mat"]},
        "metric_list": [{"metric": "exact_match"}],
    },
}
ASKED = {"output_type": "loglikelihood", "doc_to_text": "{{text}}", "doc_to_target": "{{choices[0]}}"}


def write_task(folder: Path, name: str, **settings: Any) -> None:
    task = {"task": name, "dataset_path": "json", "test_split": "test", **settings}
    task.setdefault("dataset_kwargs", {"data_files": {"test": "items.jsonl"}})
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TASKS on 12 items of 4 to 40 words, and tasks that can't run."""
    folder = tmp_path_factory.mktemp("tasks")
    rng = np.random.default_rng(5)

    def some(count: int) -> str:
        return " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), count))

    items = [
        {"text": some(4 + 3 * i), "choices": [some(1 + j % 2) for j in range(4)], "answer": i % 4}
        for i in range(12)
    ]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    for name, settings in TASKS.items():
        write_task(folder, name, **settings)
    write_task(folder, "gone", dataset_kwargs={"data_files": {"test": "gone.jsonl"}}, **ASKED)
    write_task(folder, "wrong", **ASKED | {"doc_to_text": "{{text"})
    write_task(folder, "unsafe", unsafe_code=True, **ASKED)
    return folder


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The recipe of a tiny build whose model reaches 32 tokens, and whose tokenizer has a chat template."""
    root = tmp_path_factory.mktemp("tiny")
    model = write_model(root / "model", "llama", hidden_size=128, intermediate_size=192, num_hidden_layers=2)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"eos_token": "low"})
    tokenizer.chat_template = "{% for m in messages %}cat {{ m.content }} dog{% endfor %}"
    tokenizer.save_pretrained(model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32}))
    build({"model": model, "out": root / "out", "ratio": 0.4, **texts_in(root), **TINY})
    return Recipe.of_build(root / "out")


def ask(recipe: Recipe, *names: str, **settings: Any) -> TaskScores:
    request = VerifyRequest.parse({"tasks": names, "device": "cpu", **settings})
    return run_tasks(recipe.model.with_name("out"), recipe, request)


def test_each_kind_of_task_has_its_scores(
    recipe: Recipe, task_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    found = ask(recipe, *TASKS, task_folder=task_folder)
    assert found.harness.startswith("lm-eval 0.4.") and capsys.readouterr().out == ""
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
    assert follow.difference is not None and follow.difference.unit == "nats"
    assert roll.dense != roll.pruned and roll.dense_stderr is None
    notes = tasks(found).lines
    assert notes[0] == "tasks: asked as plain text; the model has a chat template, which is not applied"
    assert any(n.startswith("choose, acc: ") and n.endswith(" 12 items") for n in notes)


def test_a_limit_takes_the_first_documents(recipe: Recipe, task_folder: Path) -> None:
    found = ask(recipe, "ch*se", task_limit=3, task_folder=task_folder)
    assert {row.samples for row in found.rows} == {3}
    assert "tasks: the first 3 documents of choose, not all" in tasks(found).lines


def test_no_code_of_the_current_folder_is_run(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This task's metric is a script, which the library `evaluate` looks for in the current folder first."""
    (tmp_path / "f1").mkdir()
    (tmp_path / "f1" / "f1.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with refused():
        ask(recipe, "polemo2_in")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["gone", "wrong", "unsafe", "hellaswagg"])
def test_what_the_harness_refuses(recipe: Recipe, task_folder: Path, name: str) -> None:
    """A file of data is missing, a template is wrong, a task runs code that the model writes, and there is no such task."""
    with refused():
        ask(recipe, name, task_folder=task_folder)


def test_without_the_harness_its_extra_is_named(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # as on a machine without it
    with refused():
        ask(recipe, "choose")
