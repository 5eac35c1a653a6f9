"""Finds and reads the text that a user names: a file, a folder or a dataset."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from masklearn.base.errors import MaskLearnError, reading
from masklearn.base.progress import without_bars
from masklearn.base.safe_read import sha256_of
from masklearn.text.files import (
    BETWEEN,
    PLAIN,
    RECORDS,
    columns_of_schema,
    file_documents,
    file_text,
    joined,
    record_texts,
    text_column,
)

SPELLING = "NAME[:CONFIG][:SPLIT][:COLUMN], such as Salesforce/wikitext:wikitext-2-raw-v1 or NAME::test"
_SPLIT = "train"


def dataset_documents(
    name: str | Path, config: str | None, split: str | None, column: str | None
) -> Iterator[str]:
    """Yield the documents of a dataset in the order of the split, without blank documents.

    name: a dataset on the hub, or a local folder with the layout of a dataset; split: None for `train` or the only split;
    column: None to find it. Raises MaskLearnError if the dataset can't be reached or has no such config, split or
    column.
    """
    where = str(name)
    if Path(where).is_dir():
        for file in _files_of_split(where, config, split):
            yield from file_documents(_readable(file), column)
        return
    from datasets import load_dataset
    from datasets.utils import logging

    with _refusing(where):
        with without_bars(logging):
            splits = load_dataset(where, config, streaming=True)
        rows = splits[_split(where, splits, split)]
        if rows.features is not None:
            column = text_column(columns_of_schema(rows.features.arrow_schema), where, column)
        named = ((f"{where}, row {i}", row) for i, row in enumerate(rows, start=1))
        yield from (text for text in record_texts(named, where, column) if text and not text.isspace())


def _files_of_split(where: str, config: str | None, split: str | None) -> list[Path]:
    """Returns the data files of a split of a local dataset."""
    from datasets import load_dataset_builder
    from datasets.utils import logging

    # `datasets` finds the files and reads none.
    with _refusing(where), without_bars(logging), TemporaryDirectory() as cache:
        builder = load_dataset_builder(where, config, cache_dir=cache)
    splits = {str(name): files for name, files in (builder.config.data_files or {}).items()}
    return [Path(file) for file in splits[_split(where, splits, split)]]


def _split(where: str, splits: Mapping[str, Any], asked: str | None) -> str:
    """Returns the split that is asked for, else `train`, else the only split."""
    wanted = asked or (_SPLIT if _SPLIT in splits or len(splits) != 1 else next(iter(splits)))
    if wanted not in splits:
        raise MaskLearnError(
            f"{where} has no split {wanted!r}",
            f"It has {', '.join(map(str, splits))}.",
            f"Name one of them: {SPELLING}.",
        )
    return wanted


def _readable(file: Path, *more: str) -> Path:
    """Returns the path of a file. Raises MaskLearnError for other formats, of which archives are some."""
    if file.suffix.lower() not in (*_SUFFIXES, *more):
        raise MaskLearnError(
            f"{file} is not a text that can be read",
            f"Files of {', '.join(_SUFFIXES)} can be.",
            "Convert it to one of these formats.",
        )
    return file


def _refusing(where: str) -> AbstractContextManager[None]:
    """Malformed files make `datasets` and its readers raise errors of many types."""
    fix = (
        f"Spell it {SPELLING}. A folder needs sound files, and a dataset of the hub needs a network or a copy in the cache "
        "of `datasets`."
    )
    return reading(f"The dataset {where!r}", fix)


_SUFFIXES = tuple(suffix for suffix in (*PLAIN, *RECORDS) if suffix)
# NAME or OWNER/NAME
_HUB_NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


class SourceKind(StrEnum):
    """Kind of place that text comes from. SELF is text that the model writes itself."""

    FILE = "file"
    FOLDER = "folder"
    DATASET = "dataset"
    SELF = "self"


@dataclass(frozen=True)
class TextSource:
    """A text that was found but not yet read.

    name: name for records, without folders; spec: absolute spelling, with which `open_text` finds it from any working
    directory; files: files of the text, none for a dataset on the hub; dataset: name or local path, config and split of
    a dataset; column: column of records that holds the text, None to find it.
    """

    kind: SourceKind
    name: str
    spec: str
    files: tuple[Path, ...] = ()
    dataset: tuple[str, str | None, str | None] | None = None
    column: str | None = None

    @property
    def on_hub(self) -> bool:
        """True if reading it needs a network (or the cache of `datasets`)."""
        return self.dataset is not None and not self.files

    def fingerprint(self) -> str:
        """Returns the sha256 of everything that determines the text: the bytes of its files, dataset, split and column.

        For a dataset on the hub it covers the name only, because the content is unknown before it is read.
        """
        read = [self.column, self.dataset[1:] if self.files and self.dataset else self.dataset]
        total = hashlib.sha256(json.dumps([self.kind.value, *read]).encode())
        for path in self.files:
            total.update(f"{path.name} {sha256_of(path)}".encode())
        return total.hexdigest()

    def shares(self, other: "TextSource") -> bool:
        """Returns True if both read a file of the same bytes, or the same split of a dataset on the hub.

        Such texts are not independent. Raises MaskLearnError if a dataset can't be read.
        """
        if self.on_hub or other.on_hub:
            return self.on_hub and other.on_hub and self._split_on_hub() == other._split_on_hub()
        ours, theirs = self._by_size(), other._by_size()
        return any(
            not set(map(sha256_of, ours[size])).isdisjoint(map(sha256_of, theirs[size]))
            for size in ours.keys() & theirs
        )

    def _split_on_hub(self) -> tuple[str, str, str]:
        assert self.dataset is not None
        where, config, split = self.dataset
        return where, config or "", split or _SPLIT

    def _by_size(self) -> dict[int, list[Path]]:
        """Returns the files that are read by their bytes, because most texts differ in these."""
        files: dict[int, list[Path]] = {}
        for file in self.files if self.dataset is None else _files_of_split(*self.dataset):
            files.setdefault(file.stat().st_size, []).append(file)
        return files

    def pieces(self) -> Iterator[str]:
        """Yield pieces whose concatenation is the text. A blank line joins documents.

        Raises MaskLearnError if the text can't be read, as `file_text` and `dataset_documents` do.
        """
        if self.dataset is not None:
            yield from joined(dataset_documents(*self.dataset, self.column))
            return
        for i, file in enumerate(self.files):
            if i:
                yield BETWEEN
            yield from file_text(file, self.column)


def open_text(spec: str | Path) -> TextSource:
    """Find a text without reading it: a local file, a local folder, or a dataset.

    A spec that exists on the disk is a path. A file of records may be followed by `:COLUMN`, and a folder followed by
    `:[CONFIG][:SPLIT][:COLUMN]` is a local dataset. Any other spec is a dataset on the hub,
    `NAME[:CONFIG][:SPLIT][:COLUMN]`, unless it looks like a path.

    Raises MaskLearnError if the text does not exist, or the spec is misspelled.
    """
    text = str(spec)
    path, rest = _existing(text)
    if path is None:
        return _hub(text)
    if path.is_file():
        return _file(path, rest)
    return _folder(path) if rest is None else _local_dataset(path, rest)


def _existing(text: str) -> tuple[Path | None, str | None]:
    parts = text.split(":")
    for count in range(len(parts), 0, -1):
        path = Path(":".join(parts[:count]))
        if parts[0] and _exists(path):
            return path.expanduser(), ":".join(parts[count:]) if count < len(parts) else None
    return None, None


def _exists(path: Path) -> bool:
    """Also returns False for an impossible path: a name that is too long or has a NUL, or the home of an unknown user."""
    try:
        return path.expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


def _check_text(path: Path) -> None:
    """Raise MaskLearnError if the first kilobyte has a zero byte. The whole file would be hashed before it is read."""
    with reading(path, "Give a file of UTF-8 text.", what="is not text"), path.open("rb") as file:
        if b"\0" in file.read(1024):
            raise ValueError("It has zero bytes, as binary files and UTF-16 have.")


def _file(path: Path, column: str | None) -> TextSource:
    suffix = _readable(path, "").suffix.lower()
    if suffix in PLAIN:
        _check_text(path)
    if column is not None and (suffix in PLAIN or not column or ":" in column):
        raise MaskLearnError(
            f"{path} has no column {column!r}",
            "Plain text has no columns." if suffix in PLAIN else "A file is spelled FILE or FILE:COLUMN.",
            f"Give only {path}, or a file of {', '.join(RECORDS)} with its column.",
        )
    end = f":{column}" if column else ""
    return TextSource(SourceKind.FILE, path.name + end, f"{path.resolve()}{end}", (path,), column=column)


def _folder(path: Path) -> TextSource:
    globs = {suffix: sorted(path.glob(f"*{suffix}")) for suffix in _SUFFIXES if suffix != ".md"}
    kinds = {suffix: files for suffix, files in globs.items() if files}
    if len(kinds) > 1:  # a .json next to other texts describes them
        kinds.pop(".json", None)
    if not kinds:
        raise MaskLearnError(
            f"No text at {path}",
            f"The folder has no file of {', '.join(_SUFFIXES)}.",
            f"Give the folder that holds the texts; for a dataset laid out as on the hub, {path}:CONFIG or {path}::SPLIT.",
        )
    if len(kinds) > 1:
        raise MaskLearnError(
            f"The texts in {path} are of several kinds",
            f"It has {', '.join(f'{len(files)} {suffix}' for suffix, files in kinds.items())}.",
            "Give a file, or a folder with files of one kind.",
        )
    files = tuple(next(iter(kinds.values())))
    return TextSource(SourceKind.FOLDER, path.resolve().name, str(path.resolve()), files)


def _local_dataset(path: Path, rest: str) -> TextSource:
    config, split, column = _parts(f"{path}:{rest}", rest)
    files = tuple(sorted(file for file in path.rglob("*") if file.is_file()))
    real = path.resolve()
    return TextSource(
        SourceKind.DATASET, f"{real.name}:{rest}", f"{real}:{rest}", files, (str(real), config, split), column
    )


def _hub(text: str) -> TextSource:
    name, _, rest = text.partition(":")
    if not _HUB_NAME.fullmatch(name) or name.lower().endswith(_SUFFIXES) or name.startswith("."):
        raise MaskLearnError(
            f"No text at {text!r}",
            "There is no such file or folder.",
            f"Give a file of {', '.join(_SUFFIXES)}, a folder of them, or a dataset: {SPELLING}.",
        )
    config, split, column = _parts(text, rest)
    return TextSource(SourceKind.DATASET, text, text, dataset=(name, config, split), column=column)


def _parts(spec: str, rest: str) -> tuple[str | None, str | None, str | None]:
    """Returns CONFIG, SPLIT and COLUMN of `CONFIG:SPLIT:COLUMN`, None for an empty part."""
    parts = rest.split(":")
    if len(parts) > 3:
        raise MaskLearnError(
            f"{spec} has too many colons",
            f"A dataset is spelled {SPELLING}.",
            "Leave out everything after COLUMN.",
        )
    config, split, column = (part or None for part in (*parts, "", "")[:3])
    return config, split, column
