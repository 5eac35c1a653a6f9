"""Which tensor of the hybrid graph is the first that is wrong: a bisection against the same graph with dense linears.

The reference holds the weights of the pruned checkpoint and is made by the same export and passes, with every linear
lowered as `dense`; so tensors of the same name must agree to rounding, and the first that does not tells the node. ONNX
Runtime gives any tensor that is declared an output. Some of them evenly over the graph are looked at first, then all in
front of the first that is wrong: two loads of either model find one of N with √N tensors at a time in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.names import depth_of
from patch_compile.sources.rounding import rounding_tolerance

if TYPE_CHECKING:
    import onnx

__all__ = ["FirstDifference", "find_first_difference"]

Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class FirstDifference:
    """tensor: of the graph; node: that makes it; op: its type; linear: that it computes, None where it is none; error:
    largest |difference| / largest |reference|, infinite where it is not finite; tolerance: what rounding explains there."""

    tensor: str
    node: str
    op: str
    linear: str | None
    error: float
    tolerance: float

    def row(self) -> dict[str, Any]:
        """For JSON: infinite errors are None."""
        return asdict(self) | {"error": self.error if math.isfinite(self.error) else None}


@dataclass(frozen=True)
class _Candidate:
    tensor: str
    node: str
    op: str
    blocks: int  # that have begun when it is computed

    def judged(self, error: float, dtype: str) -> FirstDifference:
        linear = self.node if self.op == "PatchLinear" else None
        tolerance, _ = rounding_tolerance(dtype, self.blocks)
        return FirstDifference(self.tensor, self.node, self.op, linear, error, tolerance)


def find_first_difference(hybrid: Path, reference: Path, feed: Feed, dtype: str) -> FirstDifference | None:
    """The first tensor of `hybrid`, in the order of its graph, that differs from that of `reference` beyond rounding.

    None where none does: the fault is then in what the two have in common, which is the export. Both files must be such
    as ONNX Runtime can run.
    """
    candidates = _shared(hybrid, reference)
    if not candidates:
        return None
    step = max(1, math.isqrt(len(candidates)))
    marks = sorted({*range(step - 1, len(candidates), step), len(candidates) - 1})
    found = _first(hybrid, reference, feed, [candidates[mark] for mark in marks], dtype)
    if found is None:
        return None
    last = next(mark for mark in marks if candidates[mark].tensor == found.tensor)
    first = max((mark + 1 for mark in marks if mark < last), default=0)
    return _first(hybrid, reference, feed, candidates[first : last + 1], dtype) or found


def _shared(hybrid: Path, reference: Path) -> list[_Candidate]:
    """What both graphs compute under the same name, in the order of the hybrid's."""
    import onnx

    ours, theirs = (onnx.load(str(path), load_external_data=False).graph for path in (hybrid, reference))
    known = {name for node in theirs.node for name in node.output}
    candidates, blocks = [], 1
    for node in ours.node:
        blocks = max(blocks, (depth_of(node.name) or 0) + 1)
        candidates += [
            _Candidate(name, node.name, node.op_type, blocks) for name in node.output if name in known
        ]
    return candidates


def _first(
    hybrid: Path, reference: Path, feed: Feed, candidates: Sequence[_Candidate], dtype: str
) -> FirstDifference | None:
    names = [candidate.tensor for candidate in candidates]
    expected = _run(reference, names, feed)
    for candidate, mine, theirs in zip(candidates, _run(hybrid, names, feed), expected, strict=True):
        if theirs.dtype.kind != "f":
            if not np.array_equal(mine, theirs):
                return candidate.judged(math.inf, dtype)
            continue
        found = candidate.judged(_error(mine, theirs), dtype)
        if found.error > found.tolerance:
            return found
    return None


def _error(mine: NDArray[Any], theirs: NDArray[Any]) -> float:
    if mine.shape != theirs.shape:
        return math.inf
    a, b = mine.astype(np.float64), theirs.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(np.isfinite(a), finite):
        return math.inf
    scale = float(np.abs(b[finite]).max(initial=0.0))
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0)) / (scale or 1.0)


def _run(path: Path, names: list[str], feed: Feed) -> list[NDArray[Any]]:
    """The named tensors of one run."""
    from patch_compile.onnx_io.session import open_session

    with _with_outputs(path, names) as marked:
        session = open_session(marked)
    wanted = {given.name for given in session.get_inputs()}
    made: list[NDArray[Any]] = session.run(names, {name: feed[name] for name in wanted})
    return made


@contextmanager
def _with_outputs(path: Path, names: list[str]) -> Iterator[Path]:
    """The model with more outputs, as a file beside it, where its data file is, until the end."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    _declare(model, names)
    beside = path.with_name(f".{path.stem.lstrip('.')}.marked.onnx")
    try:
        onnx.save_model(model, str(beside))
        yield beside
    finally:
        beside.unlink(missing_ok=True)


def _declare(model: onnx.ModelProto, names: list[str]) -> None:
    import onnx

    there = {output.name for output in model.graph.output}
    known = {value.name: value for value in model.graph.value_info}
    for name in names:
        if name not in there:
            model.graph.output.append(known.get(name) or onnx.ValueInfoProto(name=name))
