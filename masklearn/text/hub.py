"""Streams datasets with the `datasets` library, which downloads no more than is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from masklearn.base.errors import MaskLearnError
from masklearn.base.progress import without_bars
from masklearn.text.columns import columns_of_schema, text_column
from masklearn.text.files import record_texts

__all__ = ["SPELLING", "dataset_documents"]

SPELLING = "NAME[:CONFIG][:SPLIT][:COLUMN], such as Salesforce/wikitext:wikitext-2-raw-v1 or NAME::test"
_SPLIT = "train"


def dataset_documents(
    name: str | Path, config: str | None, split: str | None, column: str | None
) -> Iterator[str]:
    """Yield the documents of a dataset in the order of the split, without blank ones.

    name: a dataset on the hub, or a local folder with the layout of one; split: None for `train` or the only split;
    column: None to find it. Raises MaskLearnError if the dataset can't be reached or has no such config, split or
    column.
    """
    where = str(name)
    rows = _rows(where, config, split)
    if rows.features is not None:
        column = text_column(columns_of_schema(rows.features.arrow_schema), where, column)
    with _user_errors(where):
        named = ((f"{where}, row {i}", row) for i, row in enumerate(rows, start=1))
        yield from (text for text in record_texts(named, where, column) if text and not text.isspace())


def _rows(where: str, config: str | None, split: str | None) -> Any:
    """Returns the split as an `IterableDataset`."""
    from datasets import load_dataset
    from datasets.utils import logging

    with _user_errors(where), without_bars(logging):
        splits = load_dataset(where, config, streaming=True)
    wanted = split or (_SPLIT if _SPLIT in splits or len(splits) != 1 else next(iter(splits)))
    if wanted not in splits:
        raise MaskLearnError(
            f"{where} has no split {wanted!r}",
            f"It has {', '.join(map(str, splits))}.",
            f"Name one of them: {SPELLING}.",
        )
    return splits[wanted]


@contextmanager
def _user_errors(where: str) -> Iterator[None]:
    """Raise errors of `datasets` as MaskLearnError: the user can fix the name, the files or the network."""
    try:
        yield
    except MaskLearnError:
        raise
    except Exception as error:  # malformed files make `datasets` and its readers raise errors of many types
        raise MaskLearnError(
            f"The dataset {where!r} cannot be read", f"{type(error).__name__}: {error}", _remedy(where)
        ) from error


def _remedy(where: str) -> str:
    if Path(where).is_dir():
        return f"Mend its files or give another CONFIG or SPLIT: {SPELLING}."
    return (
        f"No local file or folder has this name either. A dataset is spelled {SPELLING}; "
        "it needs a network, or a copy in the cache of `datasets`."
    )
