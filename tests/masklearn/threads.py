"""Runs a function with different numbers of threads."""

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def with_one_and_two_threads(run: Callable[[], T]) -> list[T]:
    """What `run` returns with one thread of torch, and with two."""
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(run())
    finally:
        torch.set_num_threads(before)
    return found
