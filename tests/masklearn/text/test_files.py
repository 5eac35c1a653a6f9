import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masklearn.text import files
from masklearn.text.files import Column, columns_of_record, columns_of_schema, file_text, text_column
from tests.refusals import refused

TEXTS = ["first", "", "  \n", None, "second é\nline", "third"]
JOINED = "first\n\nsecond é\nline\n\nthird"


def text_of(path: Path, column: str | None = None) -> str:
    return "".join(file_text(path, column))


def write_lines(path: Path, records: list[object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_every_kind_gives_the_same_text(tmp_path: Path) -> None:
    records: list[object] = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]
    for name in ("a.jsonl", "a.ndjson", "lines.json"):
        assert text_of(write_lines(tmp_path / name, records)) == JOINED
    (tmp_path / "array.json").write_text("\n " + json.dumps(records, indent=1))
    assert text_of(tmp_path / "array.json") == JOINED
    pq.write_table(pa.table({"id": range(len(TEXTS)), "text": TEXTS}), tmp_path / "a.parquet")
    assert text_of(tmp_path / "a.parquet") == JOINED
    (tmp_path / "a.txt").write_text(JOINED, encoding="utf-8-sig")
    assert text_of(tmp_path / "a.txt") == JOINED


@settings(max_examples=25)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=30)), st.integers(1, 7))
def test_records_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], rows: int
) -> None:
    path = tmp_path_factory.mktemp("t")
    expected = "\n\n".join(text for text in texts if text and not text.isspace())
    write_lines(path / "a.jsonl", [{"text": text} for text in texts])
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), path / "a.parquet", row_group_size=rows)
    assert text_of(path / "a.jsonl") == text_of(path / "a.parquet") == expected


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "array.json", "blanks.jsonl", "a.parquet"])
def test_a_blank_file_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(files, "_MOST_BLANK", 50)
    path = tmp_path / name
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": ["a", *[None] * 60, "b"]}), path)
    elif name == "blanks.jsonl":
        write_lines(path, [{"text": "a"}, *[{"text": "  "}] * 60, {"text": "b"}])
    else:
        path.write_text("\n" * 60 + '[{"text": "a"}]')
    with refused():
        text_of(path)


def test_long_plain_text_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_CHUNK", 3)
    (tmp_path / "a.txt").write_text("abcdéfgh", encoding="utf-8")
    assert list(file_text(tmp_path / "a.txt")) == ["abc", "déf", "gh"]


def test_a_text_column_has_a_name_of_its_own(tmp_path: Path) -> None:
    columns = [pa.array([1, 2]), pa.array(["x", "y"])]
    pq.write_table(pa.table(columns, names=["text", "text"]), tmp_path / "a.parquet")
    with refused():
        text_of(tmp_path / "a.parquet")


def test_repeated_parquet_texts_are_held_once(tmp_path: Path) -> None:
    long = "a" * 2**22
    once = pa.DictionaryArray.from_arrays(pa.array([0] * 300), pa.array([long]))
    pq.write_table(pa.table({"text": once}), tmp_path / "a.parquet", compression="zstd", store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 2**14
    before = pa.total_allocated_bytes()
    documents = files.file_documents(tmp_path / "a.parquet")
    assert next(documents) == long
    assert pa.total_allocated_bytes() - before < 8 * len(long)
    with refused():
        sum(map(len, documents))


@pytest.mark.parametrize(
    ("bound", "name"),
    [("_LARGEST_GROUP", "a.parquet"), ("_LONGEST_LINE", "a.jsonl"), ("_LARGEST_ARRAY", "a.json")],
)
def test_texts_beyond_the_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, name: str
) -> None:
    monkeypatch.setattr(files, bound, 16)
    pq.write_table(pa.table({"text": ["ab" * 99]}), tmp_path / "a.parquet")
    write_lines(tmp_path / "a.jsonl", [{"text": "ab" * 99}])
    (tmp_path / "a.json").write_text(json.dumps([{"text": "ab" * 99}]))
    with refused():
        text_of(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"text": "a"}\n\n{"text": \n'),
        ("a.jsonl", b'{"text": "a"}\n["b"]\n'),
        ("a.jsonl", b'{"text": "a"}\nnull\n'),
        ("a.jsonl", b'{"text": "a"}\n{"text": 4}\n'),
        ("a.jsonl", b'{"text": "caf\xe9"}\n'),
        ("a.json", b'{\n "text": "a"\n}'),
        ("a.json", b'["a", "b"]'),
        ("a.json", b'[{"text": "a"},'),
        ("a.parquet", b"PAR1 no"),
        ("a.txt", b"caf\xe9"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with refused():
        text_of(tmp_path / name)


TURNS = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("record", "column"),
    [
        ({"text": "a", "title": "b"}, "text"),
        ({"text": None, "title": "b"}, "text"),
        ({"text": "a", "messages": TURNS}, "text"),
        ({"content": "a", "score": 1.5, "meta": {"x": "y"}, "tags": ["z"]}, "content"),
    ],
)
def test_text_or_the_only_strings(record: dict[str, object], column: str) -> None:
    assert text_column(columns_of_record(record), "here") == column


@pytest.mark.parametrize(
    "record",
    [
        {"question": "a", "answer": "b"},
        {"score": 1},
        {"text": 3, "a": "b", "c": "d"},
        pytest.param({"prompt_id": "a", "messages": TURNS}, id="are chats"),
        {"id": "a", "turns": [{"from": "human", "value": "hi"}]},
        {"id": "a", "messages": []},
        {},
    ],
)
def test_records_without_a_clear_text_are_refused(record: dict[str, object]) -> None:
    with refused():
        text_column(columns_of_record(record), "here")


def test_a_column_that_is_named() -> None:
    columns = columns_of_record({"q": "a", "answer": "b", "n": 1, "talk": TURNS, "maybe": None})
    assert text_column(columns, "here", "answer") == "answer"
    assert text_column(columns, "here", "maybe") == "maybe"
    for wanted in ("z", "n", "talk"):
        with refused():
            text_column(columns, "here", wanted)


def test_columns_of_arrow_types() -> None:
    turns = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
    kinds = {
        "a": (pa.string(), Column.STRING),
        "b": (pa.large_string(), Column.STRING),
        "c": (pa.string_view(), Column.STRING),
        "d": (pa.dictionary(pa.int32(), pa.string()), Column.STRING),
        "e": (turns, Column.CHAT),
        "f": (pa.list_(pa.string()), Column.OTHER),
        "g": (pa.null(), Column.UNKNOWN),
        "h": (pa.int64(), Column.OTHER),
        "i": (pa.binary(), Column.OTHER),
    }
    schema = pa.schema({name: kind for name, (kind, _) in kinds.items()})
    assert columns_of_schema(schema) == {name: column for name, (_, column) in kinds.items()}
