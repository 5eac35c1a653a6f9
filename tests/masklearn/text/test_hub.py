"""The real datasets library reads a local directory with the hub's layout."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from masklearn.base.errors import MaskLearnError
from masklearn.text import SourceKind, open_text, read_text

CARD = """---
configs:
- config_name: small
  data_files:
  - {split: train, path: small/train*.parquet}
  - {split: test, path: small/test*.parquet}
---
"""


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "corpus"
    (path / "small").mkdir(parents=True)
    (path / "README.md").write_text(CARD)
    for split, shard, texts in (("train", 0, ["a", None]), ("train", 1, [" ", "b"]), ("test", 0, ["c"])):
        table = pa.table({"text": pa.array(texts, pa.string()), "title": ["t"] * len(texts)})
        pq.write_table(table, path / "small" / f"{split}-0000{shard}.parquet")
    return path


def test_config_split_and_column(dataset: Path) -> None:
    assert read_text(f"{dataset}:small") == "a\n\nb"
    assert read_text(f"{dataset}:small:test") == "c"
    assert read_text(f"{dataset}:small:train:title") == "\n\n".join("tttt")
    source = open_text(f"{dataset}:small:test")
    assert (source.kind, source.name) == (SourceKind.DATASET, "corpus:small:test")
    assert {file.name for file in source.files} >= {"README.md", "test-00000.parquet"}


def test_a_name_on_the_hub_takes_the_same_way(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the source of the files is replaced; the library streams them."""
    load, asked = datasets.load_dataset, []

    def from_disk(name: str, *arguments: Any, **options: Any) -> Any:
        asked.append((name, *arguments, options))
        return load(str(dataset), *arguments, **options)

    monkeypatch.setattr(datasets, "load_dataset", from_disk)
    assert read_text("owner/corpus:small") == "a\n\nb"
    assert asked == [("owner/corpus", "small", {"streaming": True})]


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        (":other", "BuilderConfig 'other' not found.*small"),
        (":small:validation", "no split 'validation'.*train, test"),
        (":small:train:body", "no column 'body'.*text .string., title .string."),
        (":small:train:score", "no column 'score'"),
    ],
)
def test_parts_that_a_dataset_does_not_have(dataset: Path, rest: str, said: str) -> None:
    with pytest.raises(MaskLearnError, match=said):
        read_text(f"{dataset}{rest}")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_only_split_of_json_lines_whose_columns_are_not_declared(tmp_path: Path, split: str) -> None:
    folder = tmp_path / "lines"
    folder.mkdir()
    (folder / f"{split}.jsonl").write_text("".join(f'{{"body": "{text}", "n": 1}}\n' for text in "abc"))
    assert read_text(f"{folder}::") == "a\n\nb\n\nc"


def test_chats_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "chats"
    folder.mkdir()
    chat = {"id": "x", "messages": [{"role": "user", "content": "hi"}]}
    (folder / "train.jsonl").write_text(json.dumps(chat) + "\n")
    with pytest.raises(MaskLearnError, match=r"are chats.*never applied silently"):
        read_text(f"{folder}::train")


def test_damaged_files_of_a_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "train.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(MaskLearnError, match=r"cannot be read.*Mend its files"):
        read_text(f"{folder}::train")


def test_a_dataset_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(MaskLearnError, match=r"'nobody/nothing' cannot be read.*NAME\[:CONFIG\]"):
        read_text("nobody/nothing")


def test_the_libraries_bars_are_left_as_they_were(dataset: Path) -> None:
    from datasets.utils.logging import is_progress_bar_enabled

    before = is_progress_bar_enabled()
    read_text(f"{dataset}:small")
    assert is_progress_bar_enabled() == before
