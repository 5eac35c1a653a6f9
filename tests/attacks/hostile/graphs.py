"""Hostile ONNX files: damaged protobuf, graphs that are none, and graphs that lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.attacks.hostile.case import Case, Sound, draw
from tests.attacks.hostile.mutations import PLACES

__all__ = ["FILE", "INSPECT", "Change", "graph_cases", "model_of"]

FILE = "stranger.onnx"
INSPECT = f"inspect {FILE}"
_BUILD = f"build {FILE} -o out --ratio 0.4 --method magnitude --tile 32x32 --backend onnx --lowering plugin"
_PLAIN = (INSPECT, _BUILD)
_SOLVE = (
    f"{_BUILD.replace('magnitude', 'sparsegpt')} --calib inputs.npz",
)  # it keeps new weights by the linears' names
Change = Callable[[Any], Any]


def model_of(change: Change, source: str = "model.onnx") -> Callable[[Sound, Path], None]:
    """Returns a maker that changes the protobuf of a model. change: changes it in its place, or returns the file's bytes."""

    def make(sound: Sound, folder: Path) -> None:
        import onnx

        model = onnx.load(sound.root / source, load_external_data=False)
        model.doc_string = str((sound.root / source).parent)  # where a change finds the data of a tensor
        found = change(model)
        (folder / FILE).write_bytes(found if isinstance(found, bytes) else model.SerializeToString())
        if source != "model.onnx":
            sound.copy("out/onnx/model.onnx.data", folder / "model.onnx.data")

    return make


def _plain() -> Iterator[tuple[str, Change]]:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def node(index: int, **fields: Any) -> Change:
        def change(model: Any) -> None:
            target = model.graph.node[index]
            for name, value in fields.items():
                if isinstance(value, list):
                    del getattr(target, name)[:]
                    getattr(target, name).extend(value)
                else:
                    setattr(target, name, value)

        return change

    yield "no operator", node(0, op_type="")
    yield "unknown operator", node(0, op_type="Stranger")
    yield "unknown domain", node(0, domain="stranger", op_type="Stranger")
    yield "no inputs", node(0, input=[])
    yield "one input", node(0, input=["x"])
    yield "many inputs", node(0, input=["x"] * 1000)
    yield "no outputs", node(0, output=[])
    yield "output twice", node(1, output=["a"])
    yield "a circle of nodes", node(0, input=["y", "first"])
    yield "a circle of one", node(1, input=["b"])
    yield "unknown name", node(1, input=["stranger"])
    yield "empty names", node(0, input=["", ""])
    yield "a name with colours", node(0, name="\x1b[31mred\x07")
    yield "a name of 1 MB", node(0, name="x" * 1_000_000)
    yield "names twice", node(2, name="first_matmul")
    yield (
        "transB that is text",
        lambda m: m.graph.node[2].attribute[0].CopyFrom(helper.make_attribute("transB", "x")),
    )
    yield "transB twice", lambda m: m.graph.node[2].attribute.append(m.graph.node[2].attribute[0])
    yield (
        "alpha nan",
        lambda m: m.graph.node[2].attribute.append(helper.make_attribute("alpha", float("nan"))),
    )
    yield "an attribute without a type", lambda m: m.graph.node[2].attribute.add(name="alpha") and None
    yield (
        "an attribute of an unknown type",
        lambda m: m.graph.node[2].attribute.append(onnx.AttributeProto.FromString(b"\x0a\x01z\xa0\x01\x63")),
    )

    def weight(**fields: Any) -> Change:
        def change(model: Any) -> None:
            target = model.graph.initializer[0]
            for name, value in fields.items():
                if isinstance(value, list):
                    del target.dims[:]
                    target.dims.extend(value)
                else:
                    setattr(target, name, value)

        return change

    for dims in (
        [],
        [64],
        [64, 63],
        [63, 64],
        [-64, 64],
        [0, 64],
        [2**62, 4],
        [2**32, 2**32],
        [1] * 500,
        [64, 64, 1],
        [2**31, 2**33],
    ):
        yield f"a weight of {str(dims)[:24]}", weight(dims=dims)
    for kind in (0, 2, 7, 8, 9, 10, 11, 14, 16, 17, 22, 99, -1):
        yield f"a weight of type {kind}", weight(data_type=kind)
    yield "a weight without data", weight(raw_data=b"")
    yield "a weight cut", weight(raw_data=b"\0" * 100)
    yield "a weight without a name", weight(name="")
    yield "a weight of another name", weight(name="stranger")
    for name, value in (("nan", float("nan")), ("inf", float("inf")), ("huge", 3e38), ("zero", 0.0)):
        yield (
            f"weights {name}",
            lambda m, v=value: m.graph.initializer[0].CopyFrom(numpy_helper.from_array(_full(v), "first")),
        )
    yield "a weight twice", lambda m: m.graph.initializer.append(m.graph.initializer[0])
    yield "segments", lambda m: setattr(m.graph.initializer[0].segment, "begin", 7)
    for place in (
        "/etc/passwd",
        "../outside",
        "../../outside",
        "",
        "missing.data",
        "a\0b",
        "x" * 5000,
        "\x1b[31m",
        ".",
    ):
        yield f"data outside at {place[:14]!r}", lambda m, p=place: _external(m, location=p)
    for name, value in (
        ("offset", "-1"),
        ("offset", str(2**63)),
        ("length", "-4"),
        ("length", str(2**62)),
        ("offset", "stranger"),
        ("length", "1e9"),
    ):
        yield f"data with {name} {value}", lambda m, n=name, v=value: _external(m, location=FILE, **{n: v})
    yield "data in itself", lambda m: _external(m, location=FILE, offset="0", length="16384")

    def shape(value: Any) -> Change:
        return lambda m: m.graph.input[0].CopyFrom(
            helper.make_tensor_value_info("x", TensorProto.FLOAT, value)
        )

    for dims in (
        [],
        [64],
        ["rows", 63],
        [-1, 64],
        [0, 64],
        [2**62, 64],
        ["rows"] * 300,
        ["\x1b[31m", 64],
        ["", ""],
        ["x" * 100_000, 64],
    ):
        yield f"input of {str(dims)[:24]!r}", shape(dims)
    yield "input without a type", lambda m: m.graph.input[0].ClearField("type")
    yield (
        "input of text",
        lambda m: m.graph.input[0].CopyFrom(
            helper.make_tensor_value_info("x", TensorProto.STRING, ["r", 64])
        ),
    )
    yield (
        "input of a sequence",
        lambda m: m.graph.input[0].CopyFrom(
            helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
        ),
    )
    yield "input twice", lambda m: m.graph.input.append(m.graph.input[0])
    yield "no input", lambda m: m.graph.ClearField("input")
    yield "no output", lambda m: m.graph.ClearField("output")
    yield (
        "output of nothing",
        lambda m: m.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])),
    )
    yield (
        "output of another shape",
        lambda m: m.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 3])),
    )
    yield "no graph", lambda m: m.ClearField("graph")
    yield "no node", lambda m: m.graph.ClearField("node")
    for version in (0, -1, 1, 2, 999, 2**62):
        yield f"IR version {version}", lambda m, v=version: setattr(m, "ir_version", v)
        yield f"opset {version}", lambda m, v=version: setattr(m.opset_import[0], "version", v)
    yield "no opset", lambda m: m.ClearField("opset_import")
    yield "two opsets", lambda m: m.opset_import.append(helper.make_opsetid("", 7))
    yield (
        "metadata with colours",
        lambda m: m.metadata_props.add(key="\x1b[31m", value="\x1b]0;t\x07") and None,
    )
    yield "a training step", lambda m: m.training_info.add() and None
    for depth in (12, 40):
        yield f"functions nested {depth} deep", lambda m, d=depth: _functions(m, d)
    yield "a function that calls itself", lambda m: _functions(m, 1, own=True)
    yield "branches nested 30 deep", lambda m: _branches(m, 30)  # protobuf ends at 100 messages in each other
    yield "branches nested 5000 deep", lambda m: _nested_bytes(5000)
    yield "20,000 nodes", lambda m: _chain(m, 20_000)


def _linears() -> Iterator[tuple[str, Change]]:
    """Yield changes of the name of a linear."""
    for name in ("a/b", "../../../../outside", "/outside", "..", "x" * 300, "\x1b[31m"):
        yield f"a linear called {name[:20]!r}", lambda m, n=f"{name}.weight": _renamed(m, n)


def _renamed(model: Any, name: str) -> None:
    weight = model.graph.initializer[0]
    for node in model.graph.node:
        node.input[:] = [name if one == weight.name else one for one in node.input]
    weight.name = name


def _with_inputs(make: Callable[[Sound, Path], None]) -> Callable[[Sound, Path], None]:
    def made(sound: Sound, folder: Path) -> None:
        import numpy as np

        make(sound, folder)
        np.savez(folder / "inputs.npz", x=np.random.default_rng(0).standard_normal((2, 16, 64)).astype("f4"))

    return made


def _full(value: float) -> Any:
    import numpy as np

    return np.full((64, 64), value, "f4")


def _external(model: Any, **entries: str) -> None:
    target = model.graph.initializer[0]
    target.ClearField("raw_data")
    target.data_location = 1
    for key, value in entries.items():
        target.external_data.add(key=key, value=value)


def _functions(model: Any, depth: int, *, own: bool = False) -> None:
    """Each function calls the next one twice: 2**depth nodes where they are inlined."""
    from onnx import helper

    imports = [helper.make_opsetid("", 20), helper.make_opsetid("stranger", 1)]
    model.opset_import.append(helper.make_opsetid("stranger", 1))
    for level in range(depth):
        inner = f"F{level}" if own else f"F{level + 1}"
        kind, domain = (inner, "stranger") if own or level < depth - 1 else ("Relu", "")
        nodes = [
            helper.make_node(kind, ["a"], ["b"], domain=domain),
            helper.make_node(kind, ["b"], ["c"], domain=domain),
        ]
        model.functions.append(helper.make_function("stranger", f"F{level}", ["a"], ["c"], nodes, imports))
    model.graph.node[1].op_type, model.graph.node[1].domain = "F0", "stranger"


def _branches(model: Any, depth: int) -> None:
    from onnx import TensorProto, helper

    flag = helper.make_tensor("flag", TensorProto.BOOL, [], [True])
    model.graph.initializer.append(flag)
    graph = helper.make_graph(
        [helper.make_node("Relu", ["a"], ["r"])], "g", [], [helper.make_tensor_value_info("r", 1, None)]
    )
    for level in range(depth):
        other = helper.make_graph(
            [helper.make_node("Relu", ["a"], ["e"])], "e", [], [helper.make_tensor_value_info("e", 1, None)]
        )
        inner = helper.make_node("If", ["flag"], [f"o{level}"], then_branch=graph, else_branch=other)
        graph = helper.make_graph(
            [inner], f"g{level}", [], [helper.make_tensor_value_info(f"o{level}", 1, None)]
        )
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


def _endless(model: Any) -> None:
    """The linears' input is computed from constants by a loop of 2**62 turns."""
    from onnx import TensorProto, helper

    model.graph.initializer.extend(
        [
            helper.make_tensor("turns", TensorProto.INT64, [], [2**62]),
            helper.make_tensor("go", TensorProto.BOOL, [], [True]),
        ]
    )
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Relu", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", 7, []),
            helper.make_tensor_value_info("c", 9, []),
            helper.make_tensor_value_info("v", 1, [64, 64]),
        ],
        [helper.make_tensor_value_info("d", 9, []), helper.make_tensor_value_info("w", 1, [64, 64])],
    )
    model.graph.node.insert(0, helper.make_node("Loop", ["turns", "go", "second"], ["looped"], body=body))
    model.graph.node[3].input[1] = "looped"


def _chain(model: Any, count: int) -> None:
    from onnx import helper

    for number in range(count):
        source = "b" if not number else f"r{number - 1}"
        model.graph.node.insert(2 + number, helper.make_node("Relu", [source], [f"r{number}"]))
    model.graph.node[-1].input[0] = f"r{count - 1}"


def _bytes() -> Iterator[Case]:
    for number in range(30):

        def make(sound: Sound, folder: Path, number: int = number) -> None:
            random = draw(f"onnx/{number}")
            made = bytearray((sound.root / "model.onnx").read_bytes())
            for _ in range(1 + number % 5):
                made[random.randrange(len(made)) if number % 2 else -random.randrange(1, 400)] = (
                    random.randrange(256)
                )
            (folder / FILE).write_bytes(bytes(made if number % 3 else made[: random.randrange(len(made))]))

        yield _case(f"damaged {number}", make)
    for name, content in {
        "a long length": b"\x3a\xff\xff\xff\xff\x0f", "a long number": b"\xff" * 100, "a group": b"\x3b" * 10_000,
        "text": b"<html>stranger",
    }.items():  # fmt: skip
        yield _case(name, lambda sound, folder, c=content: (folder / FILE).write_bytes(c) and None)
    for name, put in PLACES.items():
        yield _case(name, lambda sound, folder, put=put: put(folder / FILE))


def _case(name: str, make: Callable[[Sound, Path], None], **settings: Any) -> Case:
    """Returns a case whose complaints name the file or a weight in it."""
    return Case("onnx", name, make, named=("stranger", "first", "second"), **{"commands": _PLAIN} | settings)


def graph_cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from _bytes()
    for name, change in _plain():
        yield _case(name, model_of(change))
    yield _case("a loop that never ends", model_of(_endless), env={"PATCH_COMPILE_ONNX_SECONDS": "8"})
    for name, change in _linears():
        yield _case(name, _with_inputs(model_of(change)), commands=_SOLVE)
