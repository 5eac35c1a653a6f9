"""Callbacks that receive the progress of work and lines for the user: their types, and two callbacks that do nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Called with (name of the work, units done, units in total), from the thread that does the work.
OnStep = Callable[[str, int, int], object]


def silent(_what: str, _done: int, _total: int) -> None:
    """Discards progress."""


def unsaid(_line: str) -> None:
    """Discards a line for the user."""


@contextmanager
def without_bars(logging: Any) -> Iterator[None]:
    """Turn off the progress bars of another library, which would mix with the project's own.

    logging: its module of that name; transformers and datasets have the same functions in theirs.
    """
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
