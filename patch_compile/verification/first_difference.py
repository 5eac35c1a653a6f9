"""Finds the first wrong tensor of the hybrid graph by comparing it with the same graph with dense linears.

The reference holds the weights of the pruned checkpoint and comes from the same export and passes, with every linear
lowered as `dense`. Tensors of the same name must therefore agree to rounding, and the first tensor that does not shows the
faulty node. ONNX Runtime returns any tensor that is declared as an output. The search first compares √N tensors spread
evenly over the graph, then the √N tensors before the first wrong tensor. It loads either model twice and holds only √N
tensors in memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.masks.maskset import MaskSet
from masklearn.masks.name_globs import depth_of
from patch_compile.artifacts.verify import FirstDifference
from patch_compile.debug import TENSORS, tell
from patch_compile.onnx_io.feeds import Feed
from patch_compile.onnx_io.proto import load_proto
from patch_compile.onnx_io.session import open_session, run_session
from patch_compile.planning.lowering import plan_linears
from patch_compile.sources.base import Source
from patch_compile.sources.rounding import rounding_tolerance
from patch_compile.verification.graph_outputs import with_outputs


def write_dense_reference(source: Source, out: Path, masks: MaskSet, reference: Path) -> None:
    """Write the hybrid graph of OUT with dense linears to the file `reference`. Linears of w8a8 round their inputs."""
    from patch_compile.passes.lowering.round_inputs import rounds_inputs, write_rounded

    no_bars = nullcontext(lambda *_: True)  # a bar may be open already
    rounds = any(rounds_inputs(grid) for grid in masks.grids.values())
    dense = reference.with_name(f"exact-{reference.name}") if rounds else reference
    plan = plan_linears(masks, "dense")
    source.write_hybrid(out / source.format.pruned_file, masks, plan, dense, lambda _: no_bars)
    if rounds:
        write_rounded(dense, masks.grids, reference)


@dataclass(frozen=True)
class _Candidate:
    tensor: str
    node: str
    op: str
    blocks: int  # number of blocks that have begun when the tensor is computed

    def judged(self, error: float, dtype: str) -> FirstDifference:
        linear = self.node if self.op == "PatchLinear" else None
        return FirstDifference(
            tensor=self.tensor,
            node=self.node,
            op=self.op,
            linear=linear,
            error=error,
            tolerance=rounding_tolerance(dtype, self.blocks).share,
        )


def find_first_difference(
    hybrid: Path,
    reference: Path,
    feed: Feed,
    dtype: str,
    decoded: Path | None = None,
    *,
    mapped: bool = False,
) -> FirstDifference | None:
    """Returns the first tensor of `hybrid`, in graph order, that differs from `reference` by more than rounding.

    Returns None if no tensor differs: the fault is then in the export, which both graphs share. ONNX Runtime must be able to
    run both files. decoded: the copy of `hybrid` to run, see `decoded_onnx`; mapped: see `open_session`.
    """
    candidates = _shared(hybrid, reference)
    if not candidates:
        return None
    answers = partial(_first, decoded or hybrid, reference, feed, dtype=dtype, mapped=mapped)
    step = max(1, math.isqrt(len(candidates)))
    marks = sorted({*range(step - 1, len(candidates), step), len(candidates) - 1})
    wrong = answers([candidates[mark] for mark in marks])
    if wrong is None:
        return None
    last = next(mark for mark in marks if candidates[mark].tensor == wrong.tensor)
    first = max((mark + 1 for mark in marks if mark < last), default=0)
    return answers(candidates[first : last + 1]) or wrong


def _shared(hybrid: Path, reference: Path) -> list[_Candidate]:
    """Returns the tensors that both graphs compute under the same name, in the order of the hybrid graph."""
    ours, theirs = (load_proto(path).graph for path in (hybrid, reference))
    known = {name for node in theirs.node for name in node.output}
    candidates, blocks = [], 1
    for node in ours.node:
        blocks = max(blocks, (depth_of(node.name) or 0) + 1)
        candidates += [
            _Candidate(name, node.name, node.op_type, blocks) for name in node.output if name in known
        ]
    return candidates


def _first(
    hybrid: Path, reference: Path, feed: Feed, candidates: Sequence[_Candidate], *, dtype: str, mapped: bool
) -> FirstDifference | None:
    names = [candidate.tensor for candidate in candidates]
    made, expected = (tensors_of(path, names, feed, mapped=mapped) for path in (hybrid, reference))
    for candidate, mine, theirs in zip(candidates, made, expected, strict=True):
        if theirs.dtype.kind != "f":
            if not np.array_equal(mine, theirs):
                return candidate.judged(math.inf, dtype)
            continue
        error = error_of(mine, theirs)
        judged = candidate.judged(error, dtype)
        tell(
            TENSORS,
            f"{candidate.tensor} of {candidate.node}: error {error:g}, tolerance {judged.tolerance:g}",
        )
        if error > judged.tolerance:
            return judged
    return None


def error_of(mine: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Returns the largest |difference| / largest |reference|; infinity if an element is finite in only one tensor."""
    if mine.shape != theirs.shape:
        return math.inf
    a, b = mine.astype(np.float64), theirs.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(np.isfinite(a), finite):
        return math.inf
    scale = float(np.abs(b[finite]).max(initial=0.0))
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0)) / (scale or 1.0)


def tensors_of(path: Path, names: Sequence[str], feed: Feed, *, mapped: bool = False) -> list[NDArray[Any]]:
    """Run the model once, and return the named tensors, which may be inputs too. mapped: see `open_session`."""
    with with_outputs(path, [name for name in names if name not in feed]) as marked:
        session = open_session(marked, mapped=mapped)
    wanted = {tensor.name: feed[tensor.name] for tensor in session.get_inputs()}
    return list(run_session(session, path, wanted, names).values())
