"""Keeps third-party code quiet and offline: a comparison must not depend on the present content of a hub."""

from __future__ import annotations

import io
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partialmethod
from typing import Any

__all__ = ["offline", "quiet_harness"]

# Module, name of the switch in it, and environment variable that sets the switch if the module is not imported yet.
_SWITCHES = (
    ("huggingface_hub.constants", "HF_HUB_OFFLINE", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"),
    ("evaluate.config", "HF_EVALUATE_OFFLINE", "HF_EVALUATE_OFFLINE"),
)


@contextmanager
def offline() -> Iterator[None]:
    """Block the network: libraries of hubs use only their caches, and host names cannot be looked up.

    Tasks contain code, and some of them download files without the hub's libraries. They get an OSError.
    """
    with ExitStack() as undo:
        for module, name, variable in _SWITCHES:
            undo.enter_context(_set_in(os.environ, variable, "1"))
            if module in sys.modules:
                undo.enter_context(_set_in(vars(sys.modules[module]), name, True))
        undo.enter_context(_set_in(vars(socket), "getaddrinfo", _refuse))
        yield


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Suppress progress bars, warnings about a task's settings, and output to stdout, where the result is printed."""
    from tqdm import tqdm

    with ExitStack() as undo:
        for name in ("lm_eval", "datasets", "evaluate"):
            undo.enter_context(_level(logging.getLogger(name)))
        undo.callback(setattr, tqdm, "__init__", tqdm.__init__)
        undo.enter_context(redirect_stdout(io.StringIO()))
        # A process pool for the bootstrap would be forked from a process with threads of ONNX Runtime.
        undo.enter_context(_set_in(os.environ, "DISABLE_MULTIPROC", "1"))
        tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)
        yield


@contextmanager
def _level(logger: logging.Logger) -> Iterator[None]:
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _set_in(names: Any, name: str, value: Any) -> Iterator[None]:
    """Set a value in a mapping, and restore the previous state at the end."""
    there, before = name in names, names.get(name)
    names[name] = value
    try:
        yield
    finally:
        if there:
            names[name] = before
        else:
            del names[name]


def _refuse(host: Any, *_: Any, **__: Any) -> Any:
    raise OSError(f"{host} is not looked up: tasks are read from this machine alone")
