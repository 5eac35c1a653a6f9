"""Readers of calibration and evaluation text, and of the way users name it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

from masklearn.text.files import file_text
from masklearn.text.source import open_text
from tests.attacks.fuzz.mutations import change_bytes, change_json, change_json_lines, change_words
from tests.attacks.fuzz.reader import Reader, placed


def _of(suffix: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        for piece in file_text(placed(folder, f"text{suffix}", data)):
            assert isinstance(piece, str)

    return read


def _named(data: bytes, folder: Path) -> None:
    """Find the text that a user names, below a folder of some; what could lie elsewhere on the disk is not looked for."""
    spec = data.decode(errors="surrogateescape")
    if spec.startswith(("/", "~")) or ".." in spec:
        return
    texts = folder / "named"
    texts.mkdir(exist_ok=True)
    placed(texts, "a.txt", b"the cat")
    placed(texts, "b.jsonl", b'{"text": "the cat"}')
    with chdir(texts):
        os.fspath(open_text(spec).spec)


READERS = (
    Reader("text-plain", _of(".txt"), change_bytes),
    Reader("text-json-lines", _of(".jsonl"), change_json_lines),
    Reader("text-json", _of(".json"), change_json),
    Reader("text-parquet", _of(".parquet"), change_bytes),
    Reader("text-name", _named, change_words),
)
