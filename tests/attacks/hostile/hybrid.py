"""Hostile ONNX files of builds: PatchLinear nodes that do not hold what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.attacks.hostile.case import Case
from tests.attacks.hostile.graphs import FILE, INSPECT, Change, model_of

__all__ = ["hybrid_cases"]

_RUN = f"run {FILE} 'the cat' --runner onnx --tokenizer SOUND/model --new-tokens 2"


def _changes() -> Iterator[tuple[str, Change]]:
    """Yield changes of a build's own ONNX file."""
    import numpy as np
    from onnx import numpy_helper

    def patch(model: Any) -> Any:
        return next(node for node in model.graph.node if node.op_type == "PatchLinear")

    for name in ("in_features", "out_features", "panel_rows"):
        for value in (0, -1, 63, 7, 2**31, 2**62, 1.5, "x"):
            yield f"{name} {value}", lambda m, n=name, v=value: _attribute(patch(m), n, v)
        yield f"{name} gone", lambda m, n=name: _attribute(patch(m), n, None)
    for name in ("plugin_namespace", "plugin_version"):
        for value in ("stranger", "\x1b[31m", "x" * 100_000, 7):
            yield f"{name} {str(value)[:8]!r}", lambda m, n=name, v=value: _attribute(patch(m), n, v)
    yield "no attributes", lambda m: patch(m).ClearField("attribute")
    yield "no inputs", lambda m: patch(m).ClearField("input")
    yield "X alone", lambda m: _inputs(patch(m), [patch(m).input[0]])
    yield "inputs turned", lambda m: _inputs(patch(m), list(patch(m).input)[::-1])
    yield "the function is gone", lambda m: m.ClearField("functions")
    yield "another function", lambda m: setattr(m.functions[0].node[0], "op_type", "Relu")
    yield (
        "another version",
        lambda m: [setattr(one, "version", 99) for one in m.opset_import if one.domain == "patch"] and None,
    )
    for name, values in {
        "zero": [0] * 9, "huge": [2**63 - 1] * 9, "floats": [0.5, 1.5], "text": "0,1", "one": 7,
        "texts": ["0", "1"], "least": [-(2**63)] * 9,
    }.items():  # fmt: skip
        yield f"index {name}", lambda m, v=values: _attribute(patch(m), "index", v)
    yield "index turned", lambda m: _index(patch(m), lambda numbers: numbers[::-1])
    yield "index cut", lambda m: _index(patch(m), lambda numbers: numbers[: len(numbers) // 2])
    yield "index empty", lambda m: _index(patch(m), lambda numbers: [])
    for value in ("dense", "dense,8:16", "x" * 100_000, 7):
        yield f"kinds {str(value)[:8]!r}", lambda m, v=value: _attribute(patch(m), "kinds", v)
    for place, what in enumerate(("dense", "sparse", "meta"), start=1):
        for name, change in {
            "zero": lambda a: np.zeros_like(a), "ones": lambda a: np.full_like(a, -1 if a.dtype.kind == "i" else 1),
            "huge": lambda a: np.full_like(a, 2**31 - 1 if a.dtype.kind == "i" else 6e4),
            "turned": lambda a: a[::-1].copy(),
            "cut": lambda a: a[: len(a) // 2], "empty": lambda a: a[:0], "floats": lambda a: a.astype("f4"),
            "flat": lambda a: a.ravel(),
        }.items():  # fmt: skip
            yield (
                f"{what} {name}",
                lambda m, p=place, c=change: _tensor(m, patch(m).input[p], c, numpy_helper),
            )


def _attribute(node: Any, name: str, value: Any) -> None:
    from onnx import helper

    kept = [one for one in node.attribute if one.name != name]
    del node.attribute[:]
    node.attribute.extend(kept + ([] if value is None else [helper.make_attribute(name, value)]))


def _index(node: Any, change: Callable[[list[int]], list[int]]) -> None:
    held = next(one for one in node.attribute if one.name == "index")
    held.ints[:] = change(list(held.ints))


def _inputs(node: Any, names: list[str]) -> None:
    del node.input[:]
    node.input.extend(names)


def _tensor(model: Any, name: str, change: Callable[[Any], Any], numpy_helper: Any) -> None:
    """Change an initializer, whose data lie beside the model, and put it into the model."""
    import onnx

    for target in model.graph.initializer:
        if target.name == name:
            whole = onnx.TensorProto()
            whole.CopyFrom(target)
            if onnx.external_data_helper.uses_external_data(target):
                onnx.external_data_helper.load_external_data_for_tensor(whole, model.doc_string)
                del whole.external_data[:]
                whole.data_location = onnx.TensorProto.DEFAULT
            target.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(whole)), name))
            return
    raise AssertionError(f"{name} is no initializer")


def _endless(model: Any) -> None:
    """The ids of tokens go through a loop of 2**62 turns."""
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    model.graph.initializer.extend(
        [
            helper.make_tensor("turns", TensorProto.INT64, [], [2**62]),
            helper.make_tensor("go", TensorProto.BOOL, [], [True]),
        ]
    )
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Abs", ["v"], ["w"])],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("c", TensorProto.BOOL, []),
            value("v", TensorProto.INT64, None),
        ],
        [value("d", TensorProto.BOOL, []), value("w", TensorProto.INT64, None)],
    )
    for node in model.graph.node:
        node.input[:] = ["looped" if name == "input_ids" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Loop", ["turns", "go", "input_ids"], ["looped"], body=body))


def hybrid_cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    for number, (name, change) in enumerate(_changes()):
        commands = (INSPECT, _RUN) if number % 3 == 0 else (INSPECT,)
        yield Case("hybrid onnx", name, model_of(change, "out/onnx/model.onnx"), commands)
    yield Case(
        "hybrid onnx",
        "a loop that never ends",
        model_of(_endless, "out/onnx/model.onnx"),
        (INSPECT, _RUN),
        env={"PATCH_COMPILE_ONNX_SECONDS": "5"},
    )
