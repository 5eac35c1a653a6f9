import pyarrow as pa
import pytest

from masklearn.base.errors import MaskLearnError
from masklearn.text.files import Column, columns_of_record, columns_of_schema, text_column

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
    ("record", "said"),
    [
        ({"question": "a", "answer": "b"}, r"2 hold strings.*question \(string\), answer \(string\)"),
        ({"score": 1}, r"0 hold strings.*score \(other\)"),
        ({"text": 3, "a": "b", "c": "d"}, r"text \(other\)"),
        ({"prompt_id": "a", "messages": TURNS}, "are chats.*'messages'.*never applied silently"),
        ({"id": "a", "turns": [{"from": "human", "value": "hi"}]}, "are chats.*'turns'"),
        ({"id": "a", "messages": []}, "are chats"),
        ({}, "Columns: none"),
    ],
)
def test_records_without_a_clear_text_are_refused(record: dict[str, object], said: str) -> None:
    with pytest.raises(MaskLearnError, match=said):
        text_column(columns_of_record(record), "here")


def test_a_column_that_is_named() -> None:
    columns = columns_of_record({"q": "a", "answer": "b", "n": 1, "talk": TURNS, "maybe": None})
    assert text_column(columns, "here", "answer") == "answer"
    assert text_column(columns, "here", "maybe") == "maybe"
    for wanted, said in (("z", "no column 'z'.*q .string."), ("n", "holds no strings"), ("talk", "chats")):
        with pytest.raises(MaskLearnError, match=said):
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
