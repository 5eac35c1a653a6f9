"""Tasks come from this machine only; missing tasks are refused by name, with a fix."""

import socket
from pathlib import Path
from typing import Any

import datasets.config
import huggingface_hub.constants
import pyarrow as pa
import pytest
from pyarrow import parquet

from patch_compile.verification.tasks.loading import load_tasks
from patch_compile.verification.tasks.run import offline, quiet_harness
from tests.refusals import refused
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
    with refused():
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
    with refused():
        load(["far"], own)
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
    with refused():
        load(["fetch"], own)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gone", {"dataset_kwargs": {"data_files": {"test": "gone.jsonl"}}}),
        ("wrong", {"doc_to_text": "{{text"}),
        ("unsafe", {"unsafe_code": True}),
    ],
)
def test_wrong_tasks_are_refused(own: Path, name: str, settings: dict[str, Any]) -> None:
    """A file of data is missing, a template is wrong, and a task runs code that the model writes."""
    write_task(own, name, **ASKED | settings)
    with refused():
        load([name], own)


def test_data_beyond_the_bounds_is_not_loaded(own: Path) -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 3_000), pa.array(["a" * 2**14]))
    parquet.write_table(pa.table({"text": texts}), own / "items.parquet", compression="zstd")
    files = {"data_files": {"test": "items.parquet"}}
    write_task(own, "swollen", dataset_path="parquet", dataset_kwargs=files, **ASKED)
    before = datasets.load_dataset
    with refused():
        load(["swollen"], own)
    assert datasets.load_dataset is before


def test_a_name_that_there_is_not(tmp_path: Path) -> None:
    with refused():
        load(["hellaswagg"])
    with refused():
        load(["builtin"], tmp_path / "none")
