"""Registries find classes by name in a folder: mask methods, formats of masks, fusions."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Protocol, TypeVar, cast


class _Named(Protocol):
    """Class with a `name`, which users type."""

    name: ClassVar[str]


_Kind = TypeVar("_Kind", bound=_Named)
_Entered = TypeVar("_Entered", bound=_Named)


class Registry(Mapping[str, type[_Kind]]):
    """Classes of a kind by name. A module registers its class with `@REGISTRY.register`.

    The first access imports all modules of the folder, but not the modules of its subfolders. A new class therefore needs no
    line in any other file. Recipes are checked against registries and `--help` lists them, so a registry is in a lower
    layer than its classes, and their modules import heavy packages (torch, numpy, onnx) inside functions.
    """

    def __init__(self, folder: str, order: Callable[[type[_Kind]], Any] = lambda kind: kind.name) -> None:
        """folder: package whose modules hold the classes; order: sort key of the classes."""
        self._folder, self._order = folder, order
        self._classes: dict[str, type[_Kind]] = {}
        self._read = False

    def register(self, kind: type[_Entered]) -> type[_Entered]:
        """Decorator that registers a class under its name. Raises RuntimeError if another class has the name."""
        taken = self._classes.get(kind.name)
        if taken is not None and taken is not kind:
            raise RuntimeError(f"{kind} and {taken} are both named {kind.name!r}")
        self._classes[kind.name] = cast("type[_Kind]", kind)
        return kind

    def __getitem__(self, name: str) -> type[_Kind]:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._all(), key=lambda name: self._order(self._classes[name])))

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, type[_Kind]]:
        if not self._read:
            self._read = True  # before the imports, because a module may read the registry itself
            try:
                package = importlib.import_module(self._folder)
                for module in pkgutil.iter_modules(package.__path__):
                    if not module.ispkg:
                        importlib.import_module(f"{self._folder}.{module.name}")
            except BaseException:
                self._read = False
                raise
        return self._classes
