"""Tasks come from this machine only; missing tasks are refused by name, with a fix."""

import socket
from pathlib import Path
from typing import Any

import datasets.config
import huggingface_hub.constants
import pytest

from patch_compile.errors import PatchCompileError
from patch_compile.verification.tasks.loading import load_tasks
from patch_compile.verification.tasks.run import offline, quiet_harness
from tests.verification.tasks.conftest import write_task


def load(names: list[str], include: Path | None = None) -> dict[str, Any]:
    with quiet_harness(), offline():
        return load_tasks(names, include)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "items.jsonl").write_text('{"text": "the cat", "word": "sat"}\n')
    return tmp_path


ASKED = {"output_type": "loglikelihood", "doc_to_text": "{{text}}", "doc_to_target": "{{word}}"}


def test_builtin_is_both_sets() -> None:
    tasks = load(["builtin"])["tasks"]
    assert {name: len(task.eval_docs) for name, task in tasks.items()} == {
        "builtin-choice": 64,
        "builtin-continuation": 60,
    }
    choices = list(tasks["builtin-choice"].eval_docs)
    assert all(len({*item["choices"]}) == 4 for item in choices)
    places = [item["answer"] for item in choices]
    assert [places.count(place) for place in range(4)] == [16] * 4
    assert len({item["question"] for item in choices}) == 64
    continuation = tasks["builtin-continuation"]
    first = continuation.eval_docs[0]
    assert continuation.doc_to_text(first) + continuation.doc_to_target(first) == first["text"]


def test_files_are_looked_for_in_the_users_folder(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_task(own, "mine", **ASKED)
    monkeypatch.chdir("/")
    assert len(load(["mine"], own)["tasks"]["mine"].eval_docs) == 1
    assert set(load(["mi*", "mine"], own)["tasks"]) == {"mine"}
    assert Path.cwd() == Path("/")


def test_no_code_of_the_current_folder_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This task's metric is a script, which the library `evaluate` looks for in the current folder first."""
    (tmp_path / "f1").mkdir()
    (tmp_path / "f1" / "f1.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PatchCompileError, match="polemo2_in"):
        load(["polemo2_in"])
    assert not (tmp_path / "mark").exists()


def test_missing_data_is_refused_offline(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE, socket.getaddrinfo
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    write_task(
        own, "far", dataset_path="nobody-has/this-dataset", dataset_name="en", dataset_kwargs={}, **ASKED
    )
    with pytest.raises(PatchCompileError) as caught:
        load(["far"], own)
    assert caught.value.what == (
        "The data of task 'far' is not on this machine: it needs the dataset nobody-has/this-dataset, en"
    )
    assert "--task-folder" in caught.value.fix and "--tasks builtin" in caught.value.fix
    assert asked == []
    assert not datasets.config.HF_HUB_OFFLINE and not huggingface_hub.constants.HF_HUB_OFFLINE
    assert socket.getaddrinfo is before[2]


def test_task_code_reaches_no_network(own: Path) -> None:
    code = "import socket\ndef fetch(**_):\n    socket.create_connection(('example.org', 80))\n"
    (own / "fetching.py").write_text(code)
    (own / "fetch.yaml").write_text(
        "task: fetch\ncustom_dataset: !function fetching.fetch\ntest_split: test\n"
        "output_type: loglikelihood\ndoc_to_text: a\ndoc_to_target: b\n"
    )
    with pytest.raises(PatchCompileError, match=r"task 'fetch' is not on this machine.* not looked up"):
        load(["fetch"], own)


def test_a_file_that_is_missing_is_named(own: Path) -> None:
    write_task(own, "gone", dataset_kwargs={"data_files": {"test": "gone.jsonl"}}, **ASKED)
    with pytest.raises(
        PatchCompileError, match=r"The data of task 'gone' is not on this machine.*gone\.jsonl"
    ):
        load(["gone"], own)


def test_a_task_that_is_wrong_says_where(own: Path) -> None:
    write_task(own, "wrong", **ASKED | {"doc_to_text": "{{text"})
    with pytest.raises(PatchCompileError, match=r"Task 'wrong' can't be loaded.*Mend .*wrong\.yaml"):
        load(["wrong"], own)


def test_code_that_a_model_writes_is_not_run(own: Path) -> None:
    write_task(own, "unsafe", unsafe_code=True, **ASKED)
    with pytest.raises(PatchCompileError, match="runs code that the model writes"):
        load(["unsafe"], own)


def test_a_name_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(PatchCompileError, match=r"no task 'hellaswagg'.*Close to it are hellaswag"):
        load(["hellaswagg"])
    with pytest.raises(PatchCompileError, match="There is no folder"):
        load(["builtin"], tmp_path / "none")
