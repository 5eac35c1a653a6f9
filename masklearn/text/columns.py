"""Finds the column of records that holds the text, and refuses chats."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from masklearn.base.errors import MaskLearnError

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Column", "columns_of_record", "columns_of_schema", "text_column"]

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
        f"None is named {_TEXT!r}, and {len(strings)} hold strings. Columns: {_listed(columns)}.",
        "Name the column at the end: FILE:COLUMN, or NAME:CONFIG:SPLIT:COLUMN for a dataset.",
    )


def columns_of_record(record: Mapping[str, Any]) -> dict[str, Column]:
    """Returns the kinds of the columns of a record (a JSON object)."""
    return {name: _kind(value) for name, value in record.items()}


def columns_of_schema(schema: "pyarrow.Schema") -> dict[str, Column]:
    """Returns the kinds of the columns of an Arrow table."""
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
        "How a chat becomes text is the model's chat template, which is never applied silently.",
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
