"""Type of the callbacks that receive the progress of work."""

from collections.abc import Callable

__all__ = ["Progress"]

# Called with (name of the work, units done, units in total), from the thread that does the work.
Progress = Callable[[str, int, int], object]
