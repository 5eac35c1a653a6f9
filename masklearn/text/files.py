"""Reads local files of plain text, JSON lines, JSON arrays and Parquet as streams of characters, finds the column of records
that holds the text, and refuses chats.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from masklearn.base.errors import MaskLearnError
from masklearn.base.safe_read import json_type, parse_json

if TYPE_CHECKING:
    import pyarrow

_TEXT = "text"
_CHAT_NAMES = ("messages", "conversations", "conversation")
_SPEAKERS = ("role", "from")  # key of the speaker, in the two formats of chat datasets


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
    if wanted is not None:
        return _checked(columns, where, wanted)
    if columns.get(_TEXT) in (Column.STRING, Column.UNKNOWN):
        return _TEXT
    chats = [name for name, kind in columns.items() if kind is Column.CHAT or name in _CHAT_NAMES]
    if chats:
        raise _chat(where, chats[0])
    strings = [name for name, kind in columns.items() if kind is Column.STRING]
    if len(strings) == 1:
        return strings[0]
    raise MaskLearnError(
        f"{where} has no column that is clearly its text",
        f"No column is named {_TEXT!r}, and {len(strings)} hold strings. Columns: {_listed(columns)}.",
        "Name the column at the end: FILE:COLUMN, or NAME:CONFIG:SPLIT:COLUMN for a dataset.",
    )


def columns_of_record(record: Mapping[str, Any]) -> dict[str, Column]:
    return {name: _kind(value) for name, value in record.items()}


def columns_of_schema(schema: "pyarrow.Schema") -> dict[str, Column]:
    return {field.name: _arrow_kind(field.type) for field in schema}


def _checked(columns: Mapping[str, Column], where: str, wanted: str) -> str:
    if wanted not in columns:
        raise MaskLearnError(
            f"{where} has no column {wanted!r}", f"Columns: {_listed(columns)}.", "Name one of them."
        )
    if columns[wanted] is Column.CHAT:
        raise _chat(where, wanted)
    if columns[wanted] is Column.OTHER:
        raise MaskLearnError(
            f"The column {wanted!r} of {where} holds no strings",
            f"Columns: {_listed(columns)}.",
            "Name a column of strings.",
        )
    return wanted


def _chat(where: str, column: str) -> MaskLearnError:
    return MaskLearnError(
        f"The records of {where} are chats (column {column!r})",
        "The model's chat template makes text of chats; it is never applied silently.",
        "Render them with the tokenizer's apply_chat_template and give the result as .txt or as `text` in .jsonl.",
    )


def _listed(columns: Mapping[str, Column]) -> str:
    return ", ".join(f"{name} ({kind.value})" for name, kind in columns.items()) or "none"


def _kind(value: Any) -> Column:
    if isinstance(value, str):
        return Column.STRING
    if value is None:
        return Column.UNKNOWN
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


PLAIN = (".txt", ".text", ".md", "")  # a name without a suffix is plain text too
RECORDS = (".jsonl", ".ndjson", ".parquet", ".json")
TABLES = (".csv", ".tsv")  # only tasks have such files
BETWEEN = "\n\n"  # joins documents, as rows of WikiText-2 usually are joined to measure perplexity

_CHUNK = 1_000_000  # characters
_ROWS = 256  # rows of a Parquet file in memory at a time
_LARGEST_ARRAY = 2**28  # bytes; a JSON array is parsed as a whole, and may take 20 times its text in memory
# A Parquet file of some hundred bytes can hold one text a million times. This many characters are read of any file, and
# this many more for each of its bytes; real text is compressed to a tenth.
_READ_ANYWAY, _READ_PER_BYTE = 2**22, 256
_LARGEST_GROUP = 2**31  # bytes of a row group, and the format's largest page
_LONGEST_LINE = 2**26  # characters; a line of JSON is parsed as a whole
# Consecutive blank characters and rows. A file of blanks would be read to its end, however large.
_MOST_BLANK = 2**22


def file_text(path: Path, column: str | None = None) -> Iterator[str]:
    """Yield pieces whose concatenation is the text of a file. A blank line joins documents.

    Raises MaskLearnError if the file is not UTF-8, is not of the format of its suffix, or has no column of text.
    """
    if path.suffix.lower() in PLAIN:
        yield from _plain(path)
        return
    for i, document in enumerate(file_documents(path, column)):
        yield BETWEEN + document if i else document


def file_documents(path: Path, column: str | None = None) -> Iterator[str]:
    """Yield the documents of a file of records in order, without blank documents. A line of plain text is a
    document, as in a dataset. Raises MaskLearnError as `file_text`."""
    suffix = path.suffix.lower()
    read = _text_lines if suffix in PLAIN else {".parquet": _parquet, ".json": _json}.get(suffix, _json_lines)
    blank = 0
    for text in read(path, column):
        if text and not text.isspace():
            blank = 0
            yield text
        elif (blank := blank + len(text or "") + 1) > _MOST_BLANK:
            raise _blank(path)


def check_records(path: Path) -> None:
    """Raise MaskLearnError for a file of records beyond the bounds of `file_text`, whatever its columns are.

    Other programs read a whole line, array or batch, and each copy of a text that is stored once.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        _check_columns(path)
    elif suffix not in TABLES:
        with _utf8(path):
            if suffix == ".json" and _is_array(path):
                return
            with path.open(encoding="utf-8-sig") as file:
                for _ in _lines(path, file):
                    pass


def record_texts(
    records: Iterable[tuple[str, Mapping[str, Any]]], where: str, column: str | None
) -> Iterator[str | None]:
    """Yield the text of every record, or None if it has no text. The first record determines the column.

    records: pairs (place, record) in order; where: name of the text for errors; column: None to find it.
    Raises MaskLearnError with the place if a text is not a string.
    """
    records = iter(records)
    first = next(records, None)
    if first is None:
        return
    name = text_column(columns_of_record(first[1]), where, column)
    for place, record in chain([first], records):
        text = record.get(name)
        if not isinstance(text, str | None):
            raise MaskLearnError(
                f"{place}: {name!r} is {type(text).__name__}, not a string",
                "The first record decides which column is the text.",
                "Name another column (FILE:COLUMN), or mend the record.",
            )
        yield text


def _plain(path: Path) -> Iterator[str]:
    # utf-8-sig removes a byte order mark.
    with _utf8(path), path.open(encoding="utf-8-sig") as file:
        while piece := file.read(_CHUNK):
            yield piece


def _text_lines(path: Path, column: str | None) -> Iterator[str]:
    text_column({_TEXT: Column.STRING}, str(path), column)
    with _utf8(path), path.open(encoding="utf-8-sig") as file:
        yield from (line.rstrip("\n") for _, line in _lines(path, file))


def _json_lines(path: Path, column: str | None) -> Iterator[str | None]:
    with _utf8(path), path.open(encoding="utf-8-sig") as file:
        lines = ((f"{path}, line {i}", line) for i, line in _lines(path, file))
        yield from record_texts(((place, _record(place, line)) for place, line in lines), str(path), column)


def _lines(path: Path, file: TextIO) -> Iterator[tuple[int, str]]:
    blank = 0
    for number in count(1):
        line = file.readline(_LONGEST_LINE)
        if not line:
            return
        if len(line) == _LONGEST_LINE:
            raise MaskLearnError(
                f"{path}, line {number} has more than {_LONGEST_LINE:,} characters",
                "A line is one document, and is parsed as a whole.",
                "Write shorter documents, each on its line.",
            )
        if not line.isspace():
            blank = 0
            yield number, line
        elif (blank := blank + len(line)) > _MOST_BLANK:
            raise _blank(path)


def _json(path: Path, column: str | None) -> Iterator[str | None]:
    """Read a .json file: an array of objects if it begins with `[`, else one object per line."""
    with _utf8(path):
        array = _is_array(path)
    if not array:
        yield from _json_lines(path, column)
        return
    with _utf8(path):
        content = path.read_text(encoding="utf-8-sig")
    try:
        items = parse_json(content, finite=False)
    except ValueError as error:
        raise _not_json(str(path), error) from error
    named = ((f"{path}, element {i}", item) for i, item in enumerate(items))
    yield from record_texts(((place, _object(place, item)) for place, item in named), str(path), column)


def _is_array(path: Path) -> bool:
    """Returns True if a .json file is an array. Raises MaskLearnError if it is too large for that, or blank."""
    with path.open(encoding="utf-8-sig") as file:
        start = file.read(_MOST_BLANK).lstrip()[:1]
        if not start and file.read(1):
            raise _blank(path)
    size = path.stat().st_size
    if start == "[" and size > _LARGEST_ARRAY:
        raise MaskLearnError(
            f"{path} is a JSON array of {size / 2**30:.1f} GiB",
            "An array is parsed as a whole, and this array is too large for that.",
            "Convert it to JSON lines (.jsonl), which are read one at a time.",
        )
    return start == "["


def _check_columns(path: Path) -> None:
    """Raise MaskLearnError if a Parquet file repeats a text without end, in any column."""
    from pyarrow import parquet, types

    with _parquet_errors(path):
        schema = parquet.read_schema(path)
        nested = [field.name for field in schema if types.is_nested(field.type)]
        left = _READ_ANYWAY + _READ_PER_BYTE * path.stat().st_size
        with parquet.ParquetFile(path) as file:
            _check_groups(path, file.metadata)
            if any(_has_dictionary(schema.field(name).type) for name in nested):
                raise MaskLearnError(
                    f"{path} has a nested column that stores each text once",
                    "Its size for a program that repeats the texts can't be bounded.",
                    "Write the column without dictionaries.",
                )
            for batch in file.iter_batches(batch_size=_ROWS, columns=nested) if nested else ():
                left -= batch.nbytes
                if left < 0:
                    raise _repeated(path)
    for name, kind in columns_of_schema(schema).items():
        if kind is Column.STRING:
            for _ in _parquet(path, name):
                pass


def _has_dictionary(kind: Any) -> bool:
    from pyarrow import types

    inside = (kind.field(i).type for i in range(kind.num_fields))
    return types.is_dictionary(kind) or any(map(_has_dictionary, inside))


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise MaskLearnError(
            f"{path} cannot be read as Parquet", str(error), "Fetch or write the file again."
        ) from error


def _parquet(path: Path, column: str | None) -> Iterator[str | None]:
    from pyarrow import parquet

    with _parquet_errors(path):
        left = _READ_ANYWAY + _READ_PER_BYTE * path.stat().st_size
        schema = parquet.read_schema(path)
        name = text_column(columns_of_schema(schema), str(path), column)
        if (same := schema.names.count(name)) > 1:
            raise MaskLearnError(
                f"{path} has {same} columns {name!r}", "Any of them could be the text.", "Rename the others."
            )
        # A text that is stored once and repeated stays stored once: its copies would fill the memory.
        with parquet.ParquetFile(path, read_dictionary=[name]) as file:
            _check_groups(path, file.metadata)
            for batch in file.iter_batches(batch_size=_ROWS, columns=[name]):
                for value in batch.column(0):
                    text = value.as_py()
                    left -= len(text or "")
                    yield text
                    if left < 0:
                        raise _repeated(path)


def _check_groups(path: Path, metadata: Any) -> None:
    """Refuse a row group that takes more memory than is read at once, by the sizes that the file's footer gives.

    The sizes of single columns are not asked for: where their statistics are malformed, pyarrow 26.0.1 ends the process.
    """
    for group in range(metadata.num_row_groups):
        size = metadata.row_group(group).total_byte_size
        if size > _LARGEST_GROUP:
            raise MaskLearnError(
                f"{path} has {size / 2**30:.1f} GiB in row group {group}",
                f"At most {_LARGEST_GROUP >> 30} GiB of a row group are read.",
                "Write the file again with smaller row groups, or with only the text.",
            )


def _record(place: str, line: str) -> Mapping[str, Any]:
    try:
        return _object(place, parse_json(line, finite=False))
    except ValueError as error:
        raise _not_json(place, error) from error


def _object(place: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MaskLearnError(
            f"{place} is {json_type(value)}, not an object",
            "Each document is an object whose `text` holds it.",
            'Write {"text": "..."} for each document.',
        )
    return value


def _blank(path: Path) -> MaskLearnError:
    return MaskLearnError(
        f"{path} is empty",
        f"More than {_MOST_BLANK:,} consecutive characters or rows of it are blank.",
        "Give a file of documents.",
    )


def _repeated(path: Path) -> MaskLearnError:
    return MaskLearnError(
        f"{path} holds the same text again and again",
        f"It has more than {_READ_PER_BYTE} characters of text for each byte of the file.",
        "Write each document once.",
    )


def _not_json(place: str, error: ValueError) -> MaskLearnError:
    return MaskLearnError(
        f"{place} is not JSON",
        str(error),
        "Give an object a line, or an array of objects in a .json file.",
    )


@contextmanager
def _utf8(path: Path) -> Iterator[None]:
    """Raise a decoding error as a MaskLearnError that names the file and the place in it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise MaskLearnError(
            f"The text at {path} is not UTF-8", str(error), "Convert it to UTF-8."
        ) from error
