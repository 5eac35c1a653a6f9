"""Tells a function of the library which arguments its caller wrote and which have their default values."""

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

__all__ = ["Given", "StrPath", "takes_given"]

StrPath: TypeAlias = str | os.PathLike[str]
Given: TypeAlias = dict[str, Any]
_P = ParamSpec("_P")
_R = TypeVar("_R")


def takes_given(function: Callable[Concatenate[Given, _P], _R]) -> Callable[_P, _R]:
    """Pass a function, as its first argument, a dict of the arguments that the caller wrote and that are not None.

    A default value alone does not show if the caller wrote it, and that matters in two cases. Some defaults depend on the
    model: an ONNX file keeps its own type unless a type is given. A recipe file provides the arguments that the caller
    leaves out, but never overrides those that the caller wrote.
    """
    signature = inspect.signature(function)
    own = signature.replace(parameters=list(signature.parameters.values())[1:])

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        written = own.bind(*args, **kwargs).arguments
        return function({k: v for k, v in written.items() if v is not None}, *args, **kwargs)

    call.__signature__ = own  # type: ignore[attr-defined]  # read by help() and the command line
    return call
