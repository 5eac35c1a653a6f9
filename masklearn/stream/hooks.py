"""Hooks on linears that are there only while a block of code runs."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

__all__ = ["watch_calls", "watch_gradients"]


@contextmanager
def watch_calls(
    linears: Mapping[str, nn.Linear], see: Callable[[str, Tensor, Tensor], object]
) -> Iterator[None]:
    """While it is open, `see(name, x, y)` is called with the input `[..., K]` and output `[..., N]` of every call."""

    def seen(name: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        see(name, inputs[0], output)

    with _removed(linear.register_forward_hook(partial(seen, name)) for name, linear in linears.items()):
        yield


@contextmanager
def watch_gradients(linears: Mapping[str, nn.Linear], see: Callable[[str, Tensor], object]) -> Iterator[None]:
    """While it is open, `see(name, g)` is called with the gradient `[..., N]` at the output of every call."""

    def seen(name: str, _: nn.Module, __: Any, gradients: tuple[Tensor, ...]) -> None:
        see(name, gradients[0])

    with _removed(
        linear.register_full_backward_hook(partial(seen, name)) for name, linear in linears.items()
    ):
        yield


@contextmanager
def _removed(handles: Iterable[Any]) -> Iterator[None]:
    registered: list[Any] = []
    try:
        registered.extend(handles)
        yield
    finally:
        for handle in registered:
            handle.remove()
