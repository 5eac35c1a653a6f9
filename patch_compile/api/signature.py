"""Makes the signature of a function of the library from declared options, and passes on what its caller wrote."""

import functools
import inspect
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from enum import StrEnum
from functools import partial
from operator import or_
from pathlib import Path
from types import GenericAlias, UnionType
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from masklearn.base.extras import require_extra
from masklearn.base.option import Option
from patch_compile.errors import SPELLING, PatchCompileError
from patch_compile.options import flags_of

StrPath: TypeAlias = str | os.PathLike[str]
Given: TypeAlias = dict[str, Any]
_R = TypeVar("_R")
_NEEDED = inspect.Parameter.empty


def takes(
    settings: type | None = None, only: Sequence[str] | None = None, *, extra: str = ""
) -> Callable[[Callable[..., _R]], Callable[..., _R]]:
    """Give a function the options that a class declares, as keyword arguments next to its own parameters.

    settings: the class; only: names of the options that the function takes, None for all; extra: the extra
    whose packages it needs. A parameter of the function, with the `Option` in its annotation, replaces the option of its
    name. The result has the signature for `help()`, the options by name in `options`, its own docstring in `text`, and in
    its docstring also the texts of the options.

    If the function has a parameter `given`, it gets all arguments there that the caller wrote and that are not None. A value
    equal to the default does not show whether the caller wrote it, and that matters in two cases. Some defaults depend on
    the model: an ONNX file keeps its own type unless a type is given. A recipe file provides the arguments that the caller
    leaves out, but never overrides an argument that the caller wrote. A default that depends on something is None in the
    signature. A single text or path may be given for a list of them.
    """

    def make(function: Callable[..., _R]) -> Callable[..., _R]:
        written_by_hand = inspect.signature(function)
        own = dict(written_by_hand.parameters)
        with_given = own.pop("given", None) is not None
        parameters = sorted([*_declared(settings, only, own), *own.values()], key=lambda one: one.kind)
        options = {one.name: option for one in parameters if (option := _option(one.annotation))}
        lists = {one.name for one in parameters if _is_list(one.annotation)}
        signature = written_by_hand.replace(
            parameters=[_plain(one, options.get(one.name)) for one in parameters]
        )

        def call(*args: Any, **kwargs: Any) -> _R:
            written = {
                name: (value,) if name in lists and isinstance(value, str | os.PathLike) else value
                for name, value in _bind(signature, function.__name__, args, kwargs).items()
            }
            mine = {name: value for name, value in written.items() if name in own}
            if with_given:
                mine["given"] = {name: value for name, value in written.items() if value is not None}
            with _speaking_of_arguments(function.__name__, options):
                if extra:
                    require_extra(extra, f"`patch-compile {function.__name__.replace('_', '-')}`")
                return function(**mine)

        functools.update_wrapper(call, function)
        del call.__wrapped__  # type: ignore[attr-defined]  # its signature is not what callers see
        call.__signature__, call.options = signature, options  # type: ignore[attr-defined]
        call.text = inspect.cleandoc(function.__doc__ or "")  # type: ignore[attr-defined]
        listed = [f"- `{name}`: {option.text()}" for name, option in options.items()]
        call.__doc__ = "\n".join([call.text, "", *listed])  # type: ignore[attr-defined]
        return call

    return make


# A command in backticks stays as it is. A flag may stand in backticks of its own.
_FLAG = re.compile(r"`[^`]*\s[^`]*`|`?(?<![\w-])(--?[a-z][a-z-]*)(?![\w-])`?")


@contextmanager
def _speaking_of_arguments(function: str, options: Collection[str]) -> Iterator[None]:
    """Spell the flags in errors and notes as arguments of a function, unless the command line calls it."""
    if SPELLING.get() is not str:
        yield
        return
    arguments = {flag: f"`{name}`" for name in options for flag in flags_of(name)}
    arguments |= {"--help": f"`help(patch_compile.{function})`"}

    def spell(text: str) -> str:
        return _FLAG.sub(lambda match: arguments.get(match[1], match[0]), text)

    token = SPELLING.set(spell)
    try:
        yield
    except PatchCompileError as error:
        error.respell(spell)
        raise
    finally:
        SPELLING.reset(token)


def _declared(
    settings: type | None, only: Sequence[str] | None, own: Collection[str]
) -> list[inspect.Parameter]:
    hints = {} if settings is None else get_type_hints(settings, include_extras=True)
    names = (name for name in (hints if only is None else only) if name not in own)
    declare = partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
    return [declare(name, default=getattr(settings, name, _NEEDED), annotation=hints[name]) for name in names]


def _option(annotation: Any) -> Option | None:
    declared = [one for one in getattr(annotation, "__metadata__", ()) if isinstance(one, Option)]
    return declared[-1] if declared else None


def _plain(parameter: inspect.Parameter, option: Option | None) -> inspect.Parameter:
    """Returns a parameter with the type that callers may give, and its default as they would write it.

    The default is None if words in the help say what it depends on.
    """
    default, accepted = parameter.default, _accepted(parameter.annotation)
    if option is not None and option.unset:
        default, accepted = None, accepted | None
    elif option is not None and option.spell is not None and default not in (None, _NEEDED):
        default = option.spell(default)
    default = str(default) if isinstance(default, StrEnum) else default
    return parameter.replace(annotation=accepted, default=default)


def _is_list(annotation: Any) -> bool:
    """Returns True for the type of a list, unless its option takes the whole list as one text too."""
    hint = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    option = _option(annotation)
    whole = option is not None and option.parse is not None
    return not whole and (get_origin(hint) is Sequence or ... in get_args(hint))


def _accepted(hint: Any) -> Any:
    """Returns the type that callers may give for a setting of a type: also text where it is parsed, and any sequence."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        parsed = any(isinstance(one, Option) and one.parse is not None for one in inner[1:])
        return str | _accepted(inner[0]) if parsed else _accepted(inner[0])
    if origin in (Union, UnionType):
        return functools.reduce(or_, map(_accepted, inner))
    if origin is tuple:
        items = tuple(_accepted(one) for one in inner if one is not ...)
        return GenericAlias(Sequence if ... in inner else tuple, items)
    if hint is Path:
        return StrPath
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return Literal[tuple(map(str, hint))]
    return hint


def _bind(
    signature: inspect.Signature, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Returns the arguments by name. Raises TypeError for an unknown name, with the nearest known name."""
    for unknown in kwargs.keys() - signature.parameters.keys():
        near = get_close_matches(unknown, signature.parameters, n=1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise TypeError(f"{name}() has no argument {unknown!r}{hint}")
    return signature.bind(*args, **kwargs).arguments
