"""How work tells how far it is."""

from collections.abc import Callable

__all__ = ["Progress"]

# (what is done, done, total); called from the thread that works.
Progress = Callable[[str, int, int], object]
