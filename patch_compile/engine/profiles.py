"""Optimization profiles (ranges of input shapes), from specifications as in trtexec or, without any, from the graph.

A specification has `input_ids:1x128` for an input, as trtexec does, or `batch=1` for a dimension.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from masklearn.base.printable import counted
from patch_compile.errors import PatchCompileError, UsageError
from patch_compile.onnx_io.graph_inputs import GraphInput, dim_names, read_inputs, resolve_dims

Shape = tuple[int, ...]

_SHAPE = re.compile(r"\d+(?:x\d+)*")
# Least, most frequent and largest size: sequences in a batch and tokens in a prompt, and tokens in the cache.
_DEFAULTS = {"batch": (1, 1, 8), "sequence": (1, 256, 1024)}
_PAST = (1, 1024, 4096)


@dataclass(frozen=True)
class SpelledShape:
    """The sizes of an input, or the single size of a dimension."""

    name: str
    sizes: tuple[int, ...]
    of_dimension: bool


def read_shapes(spec: str, flag: str) -> Iterator[SpelledShape]:
    """Yield the shape or size that each part of the specification names. Raises UsageError for a part that is not a
    shape."""
    for part in filter(None, (part.strip() for part in spec.split(","))):
        dimension, is_dimension, size = (piece.strip() for piece in part.partition("="))
        if is_dimension and ":" not in size:
            yield SpelledShape(dimension, (_size(dimension, size, flag),), of_dimension=True)
            continue
        name, _, shape = (piece.strip() for piece in part.rpartition(":"))
        if not name or not _SHAPE.fullmatch(shape):
            raise UsageError(
                f"{flag}: {part!r} is not a shape",
                "An input is NAME:1x128, a dimension is NAME=128.",
                "Separate them by commas: batch=1,sequence=128.",
            )
        yield SpelledShape(name, tuple(map(int, shape.split("x"))), of_dimension=False)


def _size(dimension: str, size: str, flag: str) -> int:
    if not dimension or not size.isdecimal():
        shape = (
            f", or {dimension}:{size} for the shape of an input"
            if dimension and _SHAPE.fullmatch(size)
            else ""
        )
        raise UsageError(
            f"{flag}: {size!r} is not a size for the dimension {dimension!r}",
            "A size is a whole number.",
            f"Write {dimension or 'batch'}=128{shape}.",
        )
    return int(size)


@dataclass(frozen=True)
class ShapeRange:
    """Smallest, most frequent and largest shape of an input."""

    min: Shape
    opt: Shape
    max: Shape


@dataclass(frozen=True)
class Profile:
    """One optimization profile: a range of shapes for every dynamic input, by name."""

    name: str
    shapes: Mapping[str, ShapeRange]


def profiles_from_onnx(
    onnx_path: Path,
    min_shapes: str | None = None,
    opt_shapes: str | None = None,
    max_shapes: str | None = None,
) -> tuple[Profile, ...]:
    """Returns the single profile of the specifications, or the graph's default profiles without specifications.

    Raises PatchCompileError naming the input and the dimension.
    """
    inputs = read_inputs(onnx_path)
    if min_shapes is None and opt_shapes is None and max_shapes is None:
        return default_profiles(inputs)
    return (parse_profile(inputs, min_shapes=min_shapes, opt_shapes=opt_shapes, max_shapes=max_shapes),)


def parse_profile(
    inputs: tuple[GraphInput, ...], *, min_shapes: str | None, opt_shapes: str | None, max_shapes: str | None
) -> Profile:
    """Returns the profile of --min-shapes, --opt-shapes and --max-shapes (see `parse_shapes`).

    Defaults as in trtexec: min and max default to opt, opt defaults to max, and a single given specification sets all three.
    Raises PatchCompileError naming the input and the dimension.
    """
    specs = {"min": min_shapes, "opt": opt_shapes, "max": max_shapes}
    parsed = {kind: parse_shapes(spec, inputs, f"--{kind}-shapes") for kind, spec in specs.items() if spec}
    if not parsed:
        raise UsageError(
            "No shapes are given",
            "The options for shapes are all empty.",
            "Give --opt-shapes, or --min-shapes and --max-shapes.",
        )
    opt = parsed.get("opt") or parsed.get("max") or parsed["min"]
    low, high = parsed.get("min", opt), parsed.get("max", opt)
    ranges = {i.name: ShapeRange(low[i.name], opt[i.name], high[i.name]) for i in inputs if i.is_dynamic}
    return _checked(Profile("given", ranges), inputs)


def parse_shapes(spec: str, inputs: tuple[GraphInput, ...], flag: str = "shapes") -> dict[str, Shape]:
    """Returns the shape of every dynamic input. A specification may name inputs, dimensions or both.

    `input_ids:1x1,past_key_values.0.key:1x3x0x64` names inputs, as trtexec does. `batch=1,sequence=1,past=0` names
    dimensions of the graph; `total` is past + sequence. The shape of a named input overrides the dimensions.
    Raises PatchCompileError naming the input and the dimension.
    """
    by_name = {i.name: i for i in inputs}
    sizes: dict[str, int] = {}
    shapes: dict[str, Shape] = {}
    for spelled in read_shapes(spec, flag):
        if spelled.of_dimension:
            sizes[_known_dim(spelled, inputs, flag)] = spelled.sizes[0]
        else:
            shapes[spelled.name] = _checked_shape(spelled, by_name, flag)
    return {i.name: shapes.get(i.name) or resolve_dims(i, sizes) for i in inputs if i.is_dynamic}


def default_profiles(inputs: tuple[GraphInput, ...]) -> tuple[Profile, ...]:
    """Returns default profiles for a graph with the dimensions `batch`, `sequence` and, in a decoder, `past`.

    A decoder gets two profiles, because its phases need different kernels: prefill (sequence 1…, past 0) and decode
    (sequence 1, past 1…). Another graph gets one profile, and a graph without dynamic inputs gets none. Raises
    PatchCompileError for a dimension whose size it does not know.
    """
    names = dim_names(inputs)
    if not names:
        return ()
    if "past" not in names:
        return (_ranged("encoder", inputs, _DEFAULTS),)
    return (
        _ranged("prefill", inputs, {**_DEFAULTS, "past": (0, 0, 0)}),
        _ranged("decode", inputs, {**_DEFAULTS, "sequence": (1, 1, 1), "past": _PAST}),
    )


def _ranged(name: str, inputs: tuple[GraphInput, ...], sizes: Mapping[str, tuple[int, int, int]]) -> Profile:
    low, opt, high = ({dim: size[i] for dim, size in sizes.items()} for i in range(3))
    ranges = {
        i.name: ShapeRange(resolve_dims(i, low), resolve_dims(i, opt), resolve_dims(i, high))
        for i in inputs
        if i.is_dynamic
    }
    return _checked(Profile(name, ranges), inputs)


def _known_dim(given: SpelledShape, inputs: tuple[GraphInput, ...], flag: str) -> str:
    known, dim, size = dim_names(inputs), given.name, given.sizes[0]
    if dim not in known:
        fix = f"Write {' or '.join(f'{name}={size}' for name in known)}" if known else f"Leave {flag} out"
        shapes = (_spelled(each, size) for each in inputs if each.name == dim and known)
        raise PatchCompileError(
            f"{flag}: the graph has no dimension {dim!r}",
            f"Its dimensions are {', '.join(known) or 'all static'}.",
            f"{', or the shape of the input: '.join((fix, *shapes))}.",
        )
    return dim


def _spelled(given: GraphInput, size: int) -> str:
    """Returns a shape of an input as an option spells it, with this size for the dimensions that have none."""
    return f"{given.name}:{'x'.join(str(dim if isinstance(dim, int) else size) for dim in given.dims)}"


def _checked_shape(given: SpelledShape, by_name: Mapping[str, GraphInput], flag: str) -> Shape:
    name, sizes = given.name, given.sizes
    if name not in by_name:
        raise PatchCompileError(
            f"{flag}: the graph has no input {name!r}",
            f"Its inputs are {_listed(tuple(by_name.values()))}.",
            "Name one of them.",
        )
    dims = by_name[name].dims
    if len(sizes) != len(dims):
        raise PatchCompileError(
            f"{flag}: {'x'.join(map(str, sizes))} has {counted(len(sizes), 'dimension')}",
            f"The input is {by_name[name].spelled()}.",
            f"Give {counted(len(dims), 'size')}: {_spelled(by_name[name], sizes[0])}.",
        )
    for axis, (size, dim) in enumerate(zip(sizes, dims, strict=True)):
        if isinstance(dim, int) and size != dim:
            raise PatchCompileError(
                f"{flag}: {size} is not the size of dimension {axis} of the input {name!r}",
                f"It is always {dim}.",
                f"Write {dim} there, or leave the input out.",
            )
    return sizes


def _listed(inputs: tuple[GraphInput, ...]) -> str:
    spelled = [each.spelled() for each in inputs]
    return ", ".join(spelled if len(spelled) <= 8 else [*spelled[:7], f"… ({len(spelled)} in all)"])


def _checked(profile: Profile, inputs: tuple[GraphInput, ...]) -> Profile:
    """Check min ≤ opt ≤ max and one size per symbol. TensorRT would only say that the profile is invalid."""
    for i in inputs:
        if i.name in profile.shapes:
            _check_order(i, profile.shapes[i.name])
    for kind in ("min", "opt", "max"):
        _check_agreement(kind, profile, inputs)
    return profile


def _check_order(given: GraphInput, shapes: ShapeRange) -> None:
    for axis, (low, opt, high) in enumerate(zip(shapes.min, shapes.opt, shapes.max, strict=True)):
        if not low <= opt <= high:
            raise UsageError(
                f"The shapes of {given.name!r} are out of order",
                f"Dimension {axis} ({given.dims[axis]}) is min {low}, opt {opt}, max {high}.",
                "Give min ≤ opt ≤ max.",
            )


def _check_agreement(kind: str, profile: Profile, inputs: tuple[GraphInput, ...]) -> None:
    seen: dict[str, tuple[int, str]] = {}
    for i in inputs:
        for dim, size in zip(i.dims, getattr(profile.shapes.get(i.name), kind, ()), strict=False):
            if isinstance(dim, int):
                continue
            first_size, first = seen.setdefault(dim, (size, i.name))
            if size != first_size:
                raise PatchCompileError(
                    f"The {kind} shapes disagree on the dimension {dim!r}",
                    f"{first!r} gives {first_size}, {i.name!r} gives {size}.",
                    "Give both the same size.",
                )
