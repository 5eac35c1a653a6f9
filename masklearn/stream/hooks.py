"""Context managers that hook linears and remove the hooks at the end."""

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
    """Call `see(name, x, y)` with the input `[..., K]` and output `[..., N]` of every call of a linear."""

    def seen(name: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        see(name, inputs[0], output)

    with _removed(linear.register_forward_hook(partial(seen, name)) for name, linear in linears.items()):
        yield


@contextmanager
def watch_gradients(linears: Mapping[str, nn.Linear], see: Callable[[str, Tensor], object]) -> Iterator[None]:
    """Call `see(name, g)` with the gradient `[..., N]` of the output of every call of a linear."""

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
