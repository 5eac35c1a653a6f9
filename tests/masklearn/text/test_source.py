import json
from pathlib import Path

import pytest

from masklearn.base.errors import MaskLearnError
from masklearn.text import SourceKind, open_text, read_text


def write(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


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


def test_a_folder_of_several_kinds(tmp_path: Path) -> None:
    with pytest.raises(MaskLearnError, match=r"several kinds.*2 .txt, 1 .jsonl"):
        open_text(write(tmp_path / "d", a_txt="a", b_txt="b", c_jsonl="{}"))


@pytest.mark.parametrize(
    "spec",
    ["nowhere.txt", "a/b/c", "./nowhere", "/nowhere", "~/nowhere", "no where", "x.jsonl:text", "", ":a"],
)
def test_what_looks_like_a_path_and_is_not_there(spec: str) -> None:
    with pytest.raises(MaskLearnError, match=r"No text at .*There is no such file or folder"):
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


def test_spellings_that_mean_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", a_txt="a", b_csv="a,b", c_jsonl='{"text": "t"}')
    for spec, said in (
        ("name:a:b:c:d", "too many colons"),
        (f"{folder}/a.txt:text", "Plain text has no columns"),
        (f"{folder}/c.jsonl::text", "FILE:COLUMN"),
        (f"{folder}/c.jsonl:", "FILE:COLUMN"),
        (f"{folder}/b.csv", "suffix is .csv"),
    ):
        with pytest.raises(MaskLearnError, match=said):
            open_text(spec)


def test_texts_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(MaskLearnError, match="No text at"):
        read_text(tmp_path)
    (tmp_path / "x.txt").write_text(" \n\n")
    with pytest.raises(MaskLearnError, match="is empty"):
        read_text(tmp_path / "x.txt")


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


def test_only_a_name_needs_the_hub(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", train_jsonl='{"text": "one"}')
    assert [open_text(spec).on_hub for spec in (folder, f"{folder}::train", "owner/name")] == [
        False,
        False,
        True,
    ]
