import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from masklearn.text import SourceKind, open_text
from tests.refusals import refused


def write(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def read_text(spec: str | Path) -> str:
    return "".join(open_text(spec).pieces())


def test_a_file_and_its_column(tmp_path: Path) -> None:
    path = write(tmp_path / "d", a_jsonl='{"q": "one", "a": "two"}\n') / "a.jsonl"
    source = open_text(path)
    assert (source.kind, source.name, source.files) == (SourceKind.FILE, "a.jsonl", (path,))
    assert read_text(f"{path}:a") == "two"
    assert open_text(f"{path}:a").name == "a.jsonl:a"
    assert read_text(open_text(f"{path}:q").spec) == "one"


def test_a_path_with_a_colon_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "a:b.jsonl").write_text('{"x": "one", "y": "two"}')
    assert read_text(f"{tmp_path}/a:b.jsonl:y") == "two"


def test_paths_are_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "texts", a_txt="one")
    monkeypatch.chdir(tmp_path)
    source = open_text("texts")
    assert (source.kind, source.name, source.spec) == (SourceKind.FOLDER, "texts", f"{tmp_path}/texts")
    assert read_text("texts/a.txt") == "one"


def test_a_folder_of_one_kind(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", b_txt="second", a_txt="first", about_json="{}", README_md="no")
    assert read_text(folder) == "first\n\nsecond"
    folder = write(tmp_path / "e", b_jsonl='{"text": "second"}', a_jsonl='{"text": "first"}\n{"text": "x"}\n')
    assert read_text(folder) == "first\n\nx\n\nsecond"
    assert read_text(write(tmp_path / "f", a_json=json.dumps([{"text": "y"}]))) == "y"


@pytest.mark.parametrize(
    "spec",
    [
        "nowhere.txt",
        "a/b/c",
        "./nowhere",
        "/nowhere",
        "~/nowhere",
        "~a\0/b",
        "no where",
        "x.jsonl:text",
        "",
        ":a",
    ],
)
def test_missing_paths_are_no_hub_names(spec: str) -> None:
    with refused():
        open_text(spec)


@pytest.mark.parametrize(
    ("spec", "dataset", "column"),
    [
        ("wikitext", ("wikitext", None, None), None),
        ("owner/name", ("owner/name", None, None), None),
        ("owner/name:cfg-1.0", ("owner/name", "cfg-1.0", None), None),
        ("owner/name::test", ("owner/name", None, "test"), None),
        ("owner/name:::body", ("owner/name", None, None), "body"),
        ("owner/name:a:b:c", ("owner/name", "a", "b"), "c"),
    ],
)
def test_names_of_datasets(spec: str, dataset: tuple[str | None, ...], column: str | None) -> None:
    source = open_text(spec)
    assert (source.kind, source.dataset, source.column) == (SourceKind.DATASET, dataset, column)
    assert (source.name, source.spec, source.files) == (spec, spec, ())
    assert source.on_hub


def test_spellings_and_folders_that_mean_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", a_txt="a", b_csv="a,b", c_jsonl='{"text": "t"}')
    for spec in (
        "name:a:b:c:d",
        f"{folder}/a.txt:text",
        f"{folder}/c.jsonl::text",
        f"{folder}/c.jsonl:",
        f"{folder}/b.csv",
        str(folder),  # of several kinds
        str(write(tmp_path / "e")),  # without texts
    ):
        with refused():
            open_text(spec)


def test_a_fingerprint_follows_the_text_not_its_place(tmp_path: Path) -> None:
    lines = '{"q": "one", "a": "two"}'
    first, second = (write(tmp_path / name, x_jsonl=lines, y_jsonl=lines) for name in "ab")
    assert open_text(first).fingerprint() == open_text(second).fingerprint()
    specs = [
        first,
        f"{first}/x.jsonl",
        f"{first}/x.jsonl:a",
        f"{first}/x.jsonl:q",
        f"{first}::train",
        "name",
        "name:b",
    ]
    assert len({open_text(spec).fingerprint() for spec in specs}) == len(specs)
    before = open_text(first).fingerprint()
    write(first, y_jsonl=lines.replace("two", "tva"))
    assert open_text(first).fingerprint() != before


@pytest.mark.parametrize("content", ["a text".encode("utf-16"), bytes(64)], ids=["utf-16", "zeros"])
def test_what_has_zero_bytes_is_no_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with refused():
        open_text(tmp_path / "a.txt")


def test_texts_share_files_by_their_content(tmp_path: Path, dataset: Path) -> None:
    first = write(tmp_path / "first", a_txt="one", b_txt="two")
    (tmp_path / "copy.txt").write_text("two")
    (tmp_path / "other.txt").write_text("three")

    def shares(*specs: Path | str) -> bool:
        one, other = (open_text(spec) for spec in specs)
        return one.shares(other)

    assert shares(first, tmp_path / "copy.txt") and not shares(first, tmp_path / "other.txt")
    assert shares(f"{dataset}:small", f"{dataset}:small:train:title")
    assert not shares(f"{dataset}:small:train", f"{dataset}:small:test")
    assert shares("owner/name", "owner/name::train") and not shares("owner/name", "owner/name::test")
    assert not shares("owner/name", first)


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
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "corpus"
    (path / "small").mkdir(parents=True)
    (path / "README.md").write_text(CARD)
    for split, shard, texts in (("train", 0, ["a", None]), ("train", 1, [" ", "b"]), ("test", 0, ["c"])):
        table = pa.table({"text": pa.array(texts, pa.string()), "title": ["t"] * len(texts)})
        pq.write_table(table, path / "small" / f"{split}-0000{shard}.parquet")
    return path


def test_config_split_and_column(dataset: Path, tmp_path: Path) -> None:
    assert read_text(f"{dataset}:small") == "a\n\nb"
    assert read_text(f"{dataset}:small:test") == "c"
    assert read_text(f"{dataset}:small:train:title") == "\n\n".join("tttt")
    source = open_text(f"{dataset}:small:test")
    assert (source.kind, source.name) == (SourceKind.DATASET, "corpus:small:test")
    assert {file.name for file in source.files} >= {"README.md", "test-00000.parquet"}
    assert not source.on_hub and not (tmp_path / "cache").exists()


def test_hub_names_take_the_same_way(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the source of the files is replaced; the library streams them."""
    load, asked = datasets.load_dataset, []

    def from_disk(name: str, *arguments: Any, **options: Any) -> Any:
        asked.append((name, *arguments, options))
        return load(str(dataset), *arguments, **options)

    monkeypatch.setattr(datasets, "load_dataset", from_disk)
    assert read_text("owner/corpus:small") == "a\n\nb"
    assert asked == [("owner/corpus", "small", {"streaming": True})]


@pytest.mark.parametrize("rest", [":other", ":small:validation", ":small:train:body", ":small:train:score"])
def test_parts_that_a_dataset_does_not_have(dataset: Path, rest: str) -> None:
    with refused():
        read_text(f"{dataset}{rest}")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_undeclared_json_columns_are_found(tmp_path: Path, split: str) -> None:
    folder = tmp_path / "lines"
    folder.mkdir()
    (folder / f"{split}.jsonl").write_text("".join(f'{{"body": "{text}", "n": 1}}\n' for text in "abc"))
    assert read_text(f"{folder}::") == "a\n\nb\n\nc"


def test_datasets_have_the_bounds_of_files(tmp_path: Path) -> None:
    """The Parquet file holds one text many times, stored once."""
    folder = write(tmp_path / "d")
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 3_000), pa.array(["a" * 2**14]))
    file = folder / "train.parquet"
    pq.write_table(pa.table({"text": texts}), file, compression="zstd", store_schema=False)
    with refused():
        read_text(f"{folder}::train")
    file.unlink()
    write(folder, train_csv="text\na\n")
    with refused():
        read_text(f"{folder}::train")


def test_lines_of_a_dataset_are_documents(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", train_txt="a\n\nb \n", test_txt="c")
    assert read_text(f"{folder}::train") == "a\n\nb "
    with refused():
        read_text(f"{folder}::train:body")


def test_a_dataset_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with refused():
        read_text("nobody/nothing")


def test_the_libraries_bars_are_left_as_they_were(dataset: Path) -> None:
    from datasets.utils.logging import is_progress_bar_enabled

    before = is_progress_bar_enabled()
    read_text(f"{dataset}:small")
    assert is_progress_bar_enabled() == before
