"""What belongs to others stays quiet and off the network: a comparison must not depend on what a hub serves today."""

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

# Module, the name that holds the switch there, and the variable that sets it where it is not imported yet.
_SWITCHES = (
    ("huggingface_hub.constants", "HF_HUB_OFFLINE", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"),
    ("evaluate.config", "HF_EVALUATE_OFFLINE", "HF_EVALUATE_OFFLINE"),
)


@contextmanager
def offline() -> Iterator[None]:
    """Nothing in here reaches the network: hub libraries read their caches alone, and no name of a host is looked up.

    Tasks are code too, and some of them fetch files past the hub's libraries; those get an OSError.
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
    """No bars, no warnings about the task's own settings, nothing on stdout: that is the result's."""
    from tqdm import tqdm

    with ExitStack() as undo:
        for name in ("lm_eval", "datasets", "evaluate"):
            undo.enter_context(_level(logging.getLogger(name)))
        undo.callback(setattr, tqdm, "__init__", tqdm.__init__)
        undo.enter_context(redirect_stdout(io.StringIO()))
        # A process pool for the bootstrap would be forked from one that has threads of ONNX Runtime.
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
    """A value in a mapping, and after it what was there before."""
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
