"""Hostile ONNX files: damaged protobuf, invalid graphs, graphs that lie, and PatchLinear nodes that lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.attacks.hostile.case import ONNX_BUILD, Case, Make, Sound, cases, contents, places
from tests.attacks.values import damaged

_FILE, _HYBRID = "stranger.onnx", "out/onnx/model.onnx"
_INSPECT = f"inspect {_FILE}"
_BUILD = ONNX_BUILD.format(_FILE)
_SOLVE = f"{_BUILD.replace('magnitude', 'sparsegpt')} --calib inputs.npz"  # it keeps new weights by the linears' names
_RUN = f"run {_FILE} 'the cat' --runner onnx --tokenizer SOUND/model --new-tokens 2"
_Edit = Callable[[Any], Any]
_Edits = Iterator[tuple[str, _Edit]]


def _edited(edit: _Edit, source: str = "model.onnx") -> Make:
    """Returns a maker of an edited model. edit: changes the protobuf in its place, or returns the file's bytes."""

    def make(sound: Sound, folder: Path) -> None:
        model = onnx.load(sound.root / source, load_external_data=False)
        model.doc_string = str((sound.root / source).parent)  # where an edit finds the data of a tensor
        found = edit(model)
        (folder / _FILE).write_bytes(found if isinstance(found, bytes) else model.SerializeToString())
        if source == _HYBRID:
            sound.copy(f"{_HYBRID}.data", folder / "model.onnx.data")

    return make


def _set(fields: dict[str, Any]) -> _Edit:
    """Returns an edit of fields, by their paths of names and numbers. None clears a field; "+" is a new item."""

    def step(message: Any, name: str) -> Any:
        if name == "+":
            return message.add()
        return message[int(name)] if name.isdigit() else getattr(message, name)

    def set_one(model: Any, path: str, value: Any) -> None:
        *above, last = path.split(".")
        message = reduce(step, above, model)
        if last == "+":
            message.append(message[0] if value is _AGAIN else value)
        elif last.isdigit():
            message[int(last)].CopyFrom(value)
        elif value is None:
            message.ClearField(last)
        elif isinstance(value, list):
            del getattr(message, last)[:]
            getattr(message, last).extend(value)
        else:
            setattr(message, last, value)

    return lambda model: [set_one(model, path, value) for path, value in fields.items()]


def _info(name: str, shape: Any, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _outside(**entries: str) -> dict[str, Any]:
    """Returns fields by which the data of a weight lie outside of the file."""
    where = [onnx.StringStringEntryProto(key=key, value=value) for key, value in entries.items()]
    return {f"{_W}.raw_data": None, f"{_W}.data_location": TensorProto.EXTERNAL, f"{_W}.external_data": where}


_AGAIN = object()  # the first item
_W, _ATTRIBUTE = "graph.initializer.0", "graph.node.2.attribute"
_DIMS: tuple[list[int], ...] = (
    [], [64], [64, 63], [63, 64], [-64, 64], [0, 64], [2**62, 4], [2**32, 2**32], [1] * 500, [64, 64, 1], [2**31, 2**33],
)  # fmt: skip
_TYPES = (0, 2, 7, 8, 9, 10, 11, 14, 16, 17, 22, 99, -1)
_NUMBERS = {"nan": nan, "inf": inf, "huge": 3e38, "zero": 0.0}
_LOCATIONS = (
    "/etc/passwd", "../outside", "../../outside", "", "missing.data", "a\0b", "x" * 5000, "\x1b[31m", ".",
)  # fmt: skip
_EXTENTS = (
    ("offset", "-1"), ("offset", str(2**63)), ("length", "-4"), ("length", str(2**62)), ("offset", "stranger"),
    ("length", "1e9"),
)  # fmt: skip
_INPUT_DIMS: tuple[list[Any], ...] = (
    [], [64], ["rows", 63], [-1, 64], [0, 64], [2**62, 64], ["rows"] * 300, ["\x1b[31m", 64], ["", ""],
    ["x" * 100_000, 64],
)  # fmt: skip
_VERSIONS = {"IR version": "ir_version", "opset": "opset_import.0.version"}
_SEQUENCE = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
_FIELDS: dict[str, dict[str, Any]] = {
    "no operator": {"graph.node.0.op_type": ""},
    "unknown operator": {"graph.node.0.op_type": "Stranger"},
    "unknown domain": {"graph.node.0.domain": "stranger", "graph.node.0.op_type": "Stranger"},
    "no inputs": {"graph.node.0.input": []},
    "one input": {"graph.node.0.input": ["x"]},
    "many inputs": {"graph.node.0.input": ["x"] * 1000},
    "no outputs": {"graph.node.0.output": []},
    "output twice": {"graph.node.1.output": ["a"]},
    "a circle of nodes": {"graph.node.0.input": ["y", "first"]},
    "a circle of one": {"graph.node.1.input": ["b"]},
    "unknown name": {"graph.node.1.input": ["stranger"]},
    "empty names": {"graph.node.0.input": ["", ""]},
    "a name with colours": {"graph.node.0.name": "\x1b[31mred\x07"},
    "a name of 1 MB": {"graph.node.0.name": "x" * 1_000_000},
    "names twice": {"graph.node.2.name": "first_matmul"},
    "transB that is text": {f"{_ATTRIBUTE}.0": helper.make_attribute("transB", "x")},
    "transB twice": {f"{_ATTRIBUTE}.+": _AGAIN},
    "alpha nan": {f"{_ATTRIBUTE}.+": helper.make_attribute("alpha", nan)},
    "an attribute without a type": {f"{_ATTRIBUTE}.+.name": "alpha"},
    "an attribute of an unknown type": {
        f"{_ATTRIBUTE}.+": onnx.AttributeProto.FromString(b"\x0a\x01z\xa0\x01\x63")
    },
    **{f"a weight of {str(dims)[:24]}": {f"{_W}.dims": dims} for dims in _DIMS},
    **{f"a weight of type {kind}": {f"{_W}.data_type": kind} for kind in _TYPES},
    "a weight without data": {f"{_W}.raw_data": b""},
    "a weight cut": {f"{_W}.raw_data": b"\0" * 100},
    "a weight without a name": {f"{_W}.name": ""},
    "a weight of another name": {f"{_W}.name": "stranger"},
    **{
        f"weights {name}": {_W: numpy_helper.from_array(np.full((64, 64), value, "f4"), "first")}
        for name, value in _NUMBERS.items()
    },
    "a weight twice": {"graph.initializer.+": _AGAIN},
    "segments": {f"{_W}.segment.begin": 7},
    **{f"data outside at {place[:14]!r}": _outside(location=place) for place in _LOCATIONS},
    **{f"data with {name} {value}": _outside(location=_FILE, **{name: value}) for name, value in _EXTENTS},
    "data in itself": _outside(location=_FILE, offset="0", length="16384"),
    **{f"input of {str(dims)[:24]!r}": {"graph.input.0": _info("x", dims)} for dims in _INPUT_DIMS},
    "input without a type": {"graph.input.0.type": None},
    "input of text": {"graph.input.0": _info("x", ["r", 64], TensorProto.STRING)},
    "input of a sequence": {"graph.input.0": _SEQUENCE},
    "input twice": {"graph.input.+": _AGAIN},
    "no input": {"graph.input": None},
    "no output": {"graph.output": None},
    "output of nothing": {"graph.output.+": _info("z", [1])},
    "output of another shape": {"graph.output.0": _info("y", [3, 3])},
    "no graph": {"graph": None},
    "no node": {"graph.node": None},
    **{
        f"{name} {version}": {path: version}
        for version in (0, -1, 1, 2, 999, 2**62)
        for name, path in _VERSIONS.items()
    },
    "no opset": {"opset_import": None},
    "two opsets": {"opset_import.+": helper.make_opsetid("", 7)},
    "metadata with colours": {"metadata_props.+.key": "\x1b[31m", "metadata_props.0.value": "\x1b]0;t\x07"},
    "a training step": {"training_info.+": onnx.TrainingInfoProto()},
}


def _plain() -> _Edits:
    yield from ((name, _set(fields)) for name, fields in _FIELDS.items())
    for depth in (12, 40):
        yield f"functions nested {depth} deep", lambda m, d=depth: _functions(m, d)
    yield "a function that calls itself", lambda m: _functions(m, 1, own=True)
    yield "branches nested 30 deep", lambda m: _branches(m, 30)  # protobuf ends at 100 messages in each other
    yield "branches nested 5000 deep", lambda m: _nested_bytes(5000)
    yield "20,000 nodes", lambda m: _chain(m, 20_000)


def _renamed(name: str) -> _Edit:
    """Returns an edit of the name of a linear."""

    def edit(model: Any) -> None:
        weight = model.graph.initializer[0]
        for node in model.graph.node:
            node.input[:] = [name if one == weight.name else one for one in node.input]
        weight.name = name

    return edit


def _with_inputs(make: Make) -> Make:
    def made(sound: Sound, folder: Path) -> None:
        make(sound, folder)
        np.savez(folder / "inputs.npz", x=np.random.default_rng(0).standard_normal((2, 16, 64)).astype("f4"))

    return made


def _functions(model: Any, depth: int, *, own: bool = False) -> None:
    """Each function calls the next one twice: 2**depth nodes where they are inlined."""
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("stranger", 1)]
    model.opset_import.append(helper.make_opsetid("stranger", 1))
    for level in range(depth):
        inner = f"F{level}" if own else f"F{level + 1}"
        kind, domain = (inner, "stranger") if own or level < depth - 1 else ("Relu", "")
        nodes = [helper.make_node(kind, [x], [y], domain=domain) for x, y in ("ab", "bc")]
        model.functions.append(helper.make_function("stranger", f"F{level}", ["a"], ["c"], nodes, imports))
    model.graph.node[1].op_type, model.graph.node[1].domain = "F0", "stranger"


def _branches(model: Any, depth: int) -> None:
    model.graph.initializer.append(helper.make_tensor("flag", TensorProto.BOOL, [], [True]))

    def relu(name: str, graph: str) -> Any:
        return helper.make_graph([helper.make_node("Relu", ["a"], [name])], graph, [], [_info(name, None)])

    graph = relu("r", "g")
    for level in range(depth):
        inner = helper.make_node("If", ["flag"], [f"o{level}"], then_branch=graph, else_branch=relu("e", "e"))
        graph = helper.make_graph([inner], f"g{level}", [], [_info(f"o{level}", None)])
    model.graph.node[1].CopyFrom(graph.node[0])
    model.graph.node[1].output[0] = "b"


def _nested_bytes(depth: int) -> bytes:
    """Returns the bytes of a model whose graphs are nested deeper than protobuf parses."""

    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        tag = number << 3 | 2
        head = bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])
        return head + length + bytes([size]) + content

    graph = b""
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))  # node, its attribute, the graph of that
    return b"\x08\x0a" + field(7, graph)


def _endless(model: Any, value: str, kind: int, shape: Any, operator: str) -> None:
    """A value goes through a loop of 2**62 turns, and is called `looped` from then on."""
    model.graph.initializer.append(helper.make_tensor("turns", TensorProto.INT64, [], [2**62]))
    model.graph.initializer.append(helper.make_tensor("go", TensorProto.BOOL, [], [True]))
    nodes = [helper.make_node("Identity", ["c"], ["d"]), helper.make_node(operator, ["v"], ["w"])]
    given = [_info("i", [], TensorProto.INT64), _info("c", [], TensorProto.BOOL), _info("v", shape, kind)]
    body = helper.make_graph(
        nodes, "body", given, [_info("d", [], TensorProto.BOOL), _info("w", shape, kind)]
    )
    for node in model.graph.node:
        node.input[:] = ["looped" if name == value else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Loop", ["turns", "go", value], ["looped"], body=body))


def _chain(model: Any, count: int) -> None:
    for number in range(count):
        source = f"r{number - 1}" if number else "b"
        model.graph.node.insert(2 + number, helper.make_node("Relu", [source], [f"r{number}"]))
    model.graph.node[-1].input[0] = f"r{count - 1}"


def _damaged(number: int) -> Make:
    def make(sound: Sound, folder: Path) -> None:
        content, where = (
            (sound.root / "model.onnx").read_bytes(),
            slice(None) if number % 2 else slice(-400, None),
        )
        made = damaged(content, f"onnx/{number}", 1 + number % 5, where, cut=number % 3 == 0)
        (folder / _FILE).write_bytes(made)

    return make


_BYTES = {
    "a long length": b"\x3a\xff\xff\xff\xff\x0f", "a long number": b"\xff" * 100, "a group": b"\x3b" * 10_000,
    "text": b"<html>stranger",
}  # fmt: skip


def _of_patch(edit: Callable[[Any], Any]) -> _Edit:
    """Returns an edit of the first PatchLinear."""
    return lambda model: edit(next(node for node in model.graph.node if node.op_type == "PatchLinear"))


def _attribute(name: str, value: Any) -> _Edit:
    def edit(node: Any) -> None:
        kept = [one for one in node.attribute if one.name != name]
        del node.attribute[:]
        node.attribute.extend(kept + ([] if value is None else [helper.make_attribute(name, value)]))

    return _of_patch(edit)


def _index(change: Callable[[list[int]], list[int]]) -> _Edit:
    def edit(node: Any) -> None:
        held = next(one for one in node.attribute if one.name == "index")
        held.ints[:] = change(list(held.ints))

    return _of_patch(edit)


def _inputs(change: Callable[[list[str]], list[str]]) -> _Edit:
    return _of_patch(lambda node: node.input.__setitem__(slice(None), change(list(node.input))))


_INDICES: dict[str, Any] = {
    "zero": [0] * 9, "huge": [2**63 - 1] * 9, "floats": [0.5, 1.5], "text": "0,1", "one": 7,
    "texts": ["0", "1"], "least": [-(2**63)] * 9,
}  # fmt: skip
_ARRAYS: dict[str, Callable[[Any], Any]] = {
    "zero": lambda a: np.zeros_like(a), "ones": lambda a: np.full_like(a, -1 if a.dtype.kind == "i" else 1),
    "huge": lambda a: np.full_like(a, 2**31 - 1 if a.dtype.kind == "i" else 6e4),
    "turned": lambda a: a[::-1].copy(),
    "cut": lambda a: a[: len(a) // 2], "empty": lambda a: a[:0], "floats": lambda a: a.astype("f4"),
    "flat": lambda a: a.ravel(),
}  # fmt: skip


def _hybrid() -> _Edits:
    """Yield edits of a build's own ONNX file."""
    for name in ("in_features", "out_features", "panel_rows"):
        for value in (0, -1, 63, 7, 2**31, 2**62, 1.5, "x"):
            yield f"{name} {value}", _attribute(name, value)
        yield f"{name} gone", _attribute(name, None)
    for name in ("plugin_namespace", "plugin_version"):
        for value in ("stranger", "\x1b[31m", "x" * 100_000, 7):
            yield f"{name} {str(value)[:8]!r}", _attribute(name, value)
    yield "no attributes", _of_patch(lambda node: node.ClearField("attribute"))
    yield "no inputs", _of_patch(lambda node: node.ClearField("input"))
    yield "X alone", _inputs(lambda names: names[:1])
    yield "inputs turned", _inputs(lambda names: names[::-1])
    yield "the function is gone", _set({"functions": None})
    yield "another function", _set({"functions.0.node.0.op_type": "Relu"})
    yield "another version", _other_version
    for name, value in _INDICES.items():
        yield f"index {name}", _attribute("index", value)
    yield "index turned", _index(lambda numbers: numbers[::-1])
    yield "index cut", _index(lambda numbers: numbers[: len(numbers) // 2])
    yield "index empty", _index(lambda numbers: [])
    for value in ("dense", "dense,8:16", "x" * 100_000, 7):
        yield f"kinds {str(value)[:8]!r}", _attribute("kinds", value)
    for place, what in enumerate(("dense", "sparse", "meta"), start=1):
        for name, change in _ARRAYS.items():
            yield f"{what} {name}", lambda m, p=place, c=change: _tensor(m, p, c)


def _other_version(model: Any) -> None:
    for one in model.opset_import:
        if one.domain == "patch":
            one.version = 99


def _tensor(model: Any, place: int, change: Callable[[Any], Any]) -> None:
    """Change an initializer of a PatchLinear, whose data lie next to the model, and put it into the model."""
    name = next(node for node in model.graph.node if node.op_type == "PatchLinear").input[place]
    target = next(one for one in model.graph.initializer if one.name == name)
    whole = numpy_helper.to_array(target, model.doc_string)
    target.CopyFrom(numpy_helper.from_array(change(whole), name))


def graph_cases(sound: Sound) -> Iterator[Case]:
    """Yield the cases of this file."""
    named = {"named": ("stranger", "first", "second")}  # the file, or a weight in it
    plain = (_INSPECT, _BUILD)
    yield from cases(
        "onnx", plain, ((f"damaged {number}", _damaged(number)) for number in range(30)), **named
    )
    yield from cases("onnx", plain, contents(_FILE, _BYTES.items()), **named)
    yield from cases("onnx", plain, places(_FILE), **named)
    yield from cases("onnx", plain, ((name, _edited(edit)) for name, edit in _plain()), **named)
    endless = "a loop that never ends"  # of the linears' input, from constants, and of the ids of tokens
    constant = _edited(lambda model: _endless(model, "second", TensorProto.FLOAT, [64, 64], "Relu"))
    yield Case("onnx", endless, constant, plain, **named, env={"PATCH_COMPILE_ONNX_SECONDS": "8"})
    names = ("a/b", "../../../../outside", "/outside", "..", "x" * 300, "\x1b[31m")
    makes = ((f"a linear called {n[:20]!r}", _with_inputs(_edited(_renamed(f"{n}.weight")))) for n in names)
    yield from cases("onnx", (_SOLVE,), makes, **named)
    hybrid = ((name, _edited(edit, _HYBRID)) for name, edit in _hybrid())
    yield from cases("hybrid onnx", lambda n, _: (_INSPECT,) if n % 3 else (_INSPECT, _RUN), hybrid)
    ids = _edited(lambda model: _endless(model, "input_ids", TensorProto.INT64, None, "Abs"), _HYBRID)
    yield Case("hybrid onnx", endless, ids, (_INSPECT, _RUN), env={"PATCH_COMPILE_ONNX_SECONDS": "5"})
