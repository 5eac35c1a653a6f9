"""How a function of the library learns which arguments its caller wrote; the others have their defaults."""

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
    """Pass the function, before all its parameters, a dict of the arguments that are written in the call and not None.

    Some defaults depend on the model: an ONNX file keeps its own type unless a type is asked for. And a recipe file fills
    what the caller leaves out, but not what he writes. A default value alone can't tell these cases apart.
    """
    signature = inspect.signature(function)
    own = signature.replace(parameters=list(signature.parameters.values())[1:])

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        written = own.bind(*args, **kwargs).arguments
        return function({k: v for k, v in written.items() if v is not None}, *args, **kwargs)

    call.__signature__ = own  # type: ignore[attr-defined]  # what help() and the command line read
    return call
