"""Classes by name, one to a file of a folder: mask methods, formats of masks, fusions."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, ClassVar, Protocol, TypeVar, cast

__all__ = ["Registry"]


class _Named(Protocol):
    """A class that names itself; `name` is what a person types."""

    name: ClassVar[str]


_Kind = TypeVar("_Kind", bound=_Named)
_Entered = TypeVar("_Entered", bound=_Named)


class Registry(MutableMapping[str, type[_Kind]]):
    """The classes of one kind by name. A file enters its class with `@REGISTRY.register`.

    The registry imports the modules of its folder when it is first read (subfolders are left out), so a new class needs
    no line in any other file. It lies in a layer below the classes: a recipe is checked against it, and `--help` lists
    it. Modules of the folder therefore import what is heavy (torch, numpy, onnx) inside functions.
    """

    def __init__(self, folder: str, order: Callable[[type[_Kind]], Any] = lambda kind: kind.name) -> None:
        """folder: the package that holds one class a file; order: sort key of the classes."""
        self._folder, self._order = folder, order
        self._classes: dict[str, type[_Kind]] = {}
        self._read = False

    def register(self, kind: type[_Entered]) -> type[_Entered]:
        """Decorator: enter a class under its name. RuntimeError when another class has the name."""
        taken = self._classes.get(kind.name)
        if taken is not None and taken is not kind:
            raise RuntimeError(f"{kind} and {taken} are both named {kind.name!r}")
        self._classes[kind.name] = cast("type[_Kind]", kind)
        return kind

    def __getitem__(self, name: str) -> type[_Kind]:
        return self._all()[name]

    def __setitem__(self, name: str, kind: type[_Kind]) -> None:
        self._all()[name] = kind

    def __delitem__(self, name: str) -> None:
        del self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._all(), key=lambda name: self._order(self._classes[name])))

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, type[_Kind]]:
        if not self._read:
            self._read = True  # before the imports: a module may read the registry itself
            try:
                self._import_folder()
            except BaseException:
                self._read = False
                raise
        return self._classes

    def _import_folder(self) -> None:
        package = importlib.import_module(self._folder)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.ispkg:
                importlib.import_module(f"{self._folder}.{module.name}")
