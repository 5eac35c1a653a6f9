"""Reads local files of plain text, JSON lines, JSON arrays and Parquet as streams of characters, finds the column of records
that holds the text, and refuses chats.

`datasets` reads none of these files here. Its JSON reader refuses a key that first comes after 10 MB, makes times of dates
and holds a whole damaged file; its Parquet reader repeats a text that a file stores once until memory is full.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from enum import StrEnum
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masklearn.base.errors import MaskLearnError, reading
from masklearn.base.safe_read import json_object, parse_json

if TYPE_CHECKING:
    import pyarrow

PLAIN = (".txt", ".text", ".md", "")  # a name without a suffix is plain text too
RECORDS = (".jsonl", ".ndjson", ".parquet", ".json")
BETWEEN = "\n\n"  # joins documents, as rows of WikiText-2 usually are joined to measure perplexity

_TEXT = "text"
_CHAT_NAMES = ("messages", "conversations", "conversation")
_SPEAKERS = ("role", "from")  # key of the speaker, in the two formats of chat datasets
_CHUNK = 1_000_000  # characters
_ROWS = 256  # rows of a Parquet file in memory at a time
# Characters of a line and of an array in JSON. Each is parsed as a whole, and may take 20 times its text in memory.
_LONGEST_LINE, _LARGEST_ARRAY = 2**26, 2**28
# A Parquet file of some hundred bytes can hold one text a million times. This many characters are read of any file, and
# this many more for each of its bytes; real text is compressed to a tenth.
_READ_ANYWAY, _READ_PER_BYTE = 2**22, 256
_LARGEST_GROUP = 2**31  # bytes of a row group, and the format's largest page
# Consecutive blank rows. A file of blanks would be read to its end, however large.
_MOST_BLANK = 2**22


class Column(StrEnum):
    """Kind of values in a column."""

    STRING = "string"
    CHAT = "chat"
    UNKNOWN = "null"  # the first record has no value
    OTHER = "other"


def text_column(columns: Mapping[str, Column], where: str, wanted: str | None = None) -> str:
    """Returns the name of the column that holds the text: `wanted`, else `text`, else the only column of strings.

    where: name of the text for errors. Raises MaskLearnError if there is no such column, it holds no text, several
    columns hold strings, or the records are chats: a chat template is never applied silently.
    """
    if columns.get(wanted or _TEXT) in (Column.STRING, Column.UNKNOWN):
        return wanted or _TEXT
    asked = {name: kind for name, kind in columns.items() if wanted in (None, name)}
    if chats := [name for name, kind in asked.items() if kind is Column.CHAT or name in _CHAT_NAMES]:
        raise MaskLearnError(
            f"The records of {where} are chats (column {chats[0]!r})",
            "The model's chat template makes text of chats; it is never applied silently.",
            "Render them with the tokenizer's apply_chat_template and give the result as .txt or as `text` in .jsonl.",
        )
    strings = [name for name, kind in asked.items() if kind is Column.STRING]
    if len(strings) == 1:
        return strings[0]
    listed = ", ".join(f"{name} ({kind.value})" for name, kind in columns.items()) or "none"
    raise MaskLearnError(
        f"{where} has no column {f'{wanted!r} of strings' if wanted else 'that is clearly its text'}",
        f"Columns: {listed}.",
        "Name a column of strings at the end: FILE:COLUMN, or NAME:CONFIG:SPLIT:COLUMN for a dataset.",
    )


def columns_of_record(record: Mapping[str, Any]) -> dict[str, Column]:
    return {name: _kind(value) for name, value in record.items()}


def columns_of_schema(schema: "pyarrow.Schema") -> dict[str, Column]:
    return {field.name: _arrow_kind(field.type) for field in schema}


def _kind(value: Any) -> Column:
    if value is None or isinstance(value, str):
        return Column.UNKNOWN if value is None else Column.STRING
    turns = isinstance(value, list) and value and isinstance(value[0], dict)
    return Column.CHAT if turns and any(key in value[0] for key in _SPEAKERS) else Column.OTHER


def _arrow_kind(kind: Any) -> Column:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return Column.STRING
    if types.is_null(kind):
        return Column.UNKNOWN
    turns = (types.is_list(kind) or types.is_large_list(kind)) and types.is_struct(kind.value_type)
    speakers = turns and any(kind.value_type.get_field_index(name) >= 0 for name in _SPEAKERS)
    return Column.CHAT if speakers else Column.OTHER


def file_text(path: Path, column: str | None = None) -> Iterator[str]:
    """Yield pieces whose concatenation is the text of a file. A blank line joins documents.

    Raises MaskLearnError if the file is not UTF-8, is not of the format of its suffix, or has no column of text.
    """
    if path.suffix.lower() in PLAIN:
        with _utf8(path), path.open(encoding=_UTF8) as file:
            yield from iter(partial(file.read, _CHUNK), "")
    else:
        yield from joined(file_documents(path, column))


def joined(documents: Iterable[str]) -> Iterator[str]:
    for i, document in enumerate(documents):
        yield BETWEEN + document if i else document


def file_documents(path: Path, column: str | None = None) -> Iterator[str]:
    """Yield the documents of a file of records in order, without blank documents. A line of plain text is a
    document, as in a dataset. Raises MaskLearnError as `file_text`."""
    blank, suffix = 0, path.suffix.lower()
    if suffix == ".parquet":
        texts = _parquet(path, column)
    elif suffix in PLAIN:
        text_column({_TEXT: Column.STRING}, str(path), column)
        texts = (line.rstrip("\n") for _, line in _lines(path))
    else:
        texts = record_texts(_records(path), str(path), column)
    for text in texts:
        if text and not text.isspace():
            blank = 0
            yield text
        elif (blank := blank + 1) > _MOST_BLANK:
            raise MaskLearnError(
                f"{path} is empty",
                f"More than {_MOST_BLANK:,} consecutive rows of it are blank.",
                "Give a file of documents.",
            )


def record_texts(records: Iterable[tuple[str, Any]], where: str, column: str | None) -> Iterator[str | None]:
    """Yield the text of every record, or None if it has no text. The first record with columns determines
    which holds the text.

    records: pairs (place, record) in order, {} for a blank line; where: name of the text for errors; column: None to
    find it. Raises MaskLearnError with the place if a record is no object or a text is not a string.
    """
    name = None
    for place, record in records:
        if record == {}:
            yield None
            continue
        with _record(place):
            columns = columns_of_record(json_object(record))
            name = text_column(columns, where, column) if name is None else name
            if not isinstance(text := record.get(name), str | None):
                raise ValueError(f"{name!r} is {type(text).__name__}, not a string.")
        yield text


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the place and value of each line, {} for a blank line, or of each element of an array."""
    for number, text in _lines(path):
        place = f"{path}, line {number}" if number else str(path)
        with _record(place):
            value = {} if text.isspace() else parse_json(text, finite=False)
        if number:
            yield place, value
        else:
            yield from ((f"{path}, element {i}", item) for i, item in enumerate(value))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and text of each line. An array in a .json file, which begins with `[`, comes whole as line 0."""
    with _utf8(path), path.open(encoding=_UTF8) as file:
        array = path.suffix.lower() == ".json" and file.read(_MOST_BLANK).lstrip().startswith("[")
        file.seek(0)
        read, most = (file.read, _LARGEST_ARRAY) if array else (file.readline, _LONGEST_LINE)
        for number in count(not array):
            if not (text := read(most)):
                return
            if len(text) == most:
                what = "An array, which is parsed as a whole," if array else f"Line {number}"
                raise ValueError(f"{what} has more than {most:,} characters.")
            yield number, text


def _parquet(path: Path, column: str | None) -> Iterator[str | None]:
    from pyarrow import parquet

    fix = "Fetch or write the file again, with each document once, one column of the name, and smaller row groups."
    with reading(path, fix, what="cannot be read as Parquet"):
        left = _READ_ANYWAY + _READ_PER_BYTE * path.stat().st_size
        schema = parquet.read_schema(path)
        name = text_column(columns_of_schema(schema), str(path), column)
        if (same := schema.names.count(name)) > 1:
            raise ValueError(f"It has {same} columns {name!r}, and any of them could be the text.")
        # A text that is stored once and repeated stays stored once: its copies would fill the memory.
        with parquet.ParquetFile(path, read_dictionary=[name]) as file:
            _check_groups(file.metadata)
            for batch in file.iter_batches(batch_size=_ROWS, columns=[name]):
                for value in batch.column(0):
                    text = value.as_py()
                    left -= len(text or "")
                    yield text
                    if left < 0:
                        raise ValueError(
                            f"It has more than {_READ_PER_BYTE} characters of text for each byte."
                        )


def _check_groups(metadata: Any) -> None:
    """Refuse a row group that takes more memory than is read at once, by the sizes that the file's footer gives.

    The sizes of single columns are not asked for: where their statistics are malformed, pyarrow 26.0.1 ends the process.
    """
    for group in range(metadata.num_row_groups):
        size = metadata.row_group(group).total_byte_size
        if size > _LARGEST_GROUP:
            raise ValueError(
                f"It has {size / 2**30:.1f} GiB in row group {group}, and at most {_LARGEST_GROUP >> 30} are read."
            )


def _record(place: str) -> AbstractContextManager[None]:
    fix = 'Give an object such as {"text": "..."} a line, or an array of objects in a .json file.'
    return reading(place, fix, what="is not a record with text")


_UTF8 = "utf-8-sig"  # which removes a byte order mark


def _utf8(path: Path) -> AbstractContextManager[None]:
    fix = "Convert it to UTF-8, and write each document as a line of its own (.jsonl)."
    return reading(path, fix, what="cannot be read as text")
