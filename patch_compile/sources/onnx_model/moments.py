"""Collects second moments XᵀX of the inputs of an ONNX model's linears with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masklearn.base.device import available_memory, usable_device
from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.arrays import load_array, save_array
from patch_compile.onnx_io.feeds import Feeds
from patch_compile.onnx_io.own_process import run_model
from patch_compile.sources.onnx_model.linears import OnnxLinear

__all__ = ["Moments", "gather_moments", "write_probe"]

_SHARE = 4  # sums take a quarter of the free memory: the model and its activations need the rest
_SUM_BYTES = 8  # sums are fp64 because they may add up millions of rows


class Moments:
    """XᵀX by linear, in one file for each distinct X. Linears with the same X (q, k and v) share a file."""

    def __init__(self, folder: Path, linears: Mapping[str, OnnxLinear]) -> None:
        self._folder = folder
        xs: dict[Any, str] = {}
        for name, linear in linears.items():
            xs.setdefault(linear.x, name)
        self._leader = {name: xs[linear.x] for name, linear in linears.items()}
        self.leaders = {name: linears[name] for name in dict.fromkeys(self._leader.values())}

    def read(self, name: str) -> NDArray[np.float32]:
        """Returns XᵀX `[K, K]` of a linear's inputs."""
        return load_array(self._file(self._leader[name]))

    def put(self, leader: str, total: NDArray[np.float64]) -> None:
        """Write the sum of the linear that represents all linears with the same X."""
        self._folder.mkdir(parents=True, exist_ok=True)
        save_array(self._file(leader), total.astype(np.float32))

    def _file(self, leader: str) -> Path:
        return self._folder / f"{list(self.leaders).index(leader)}.npy"


def write_probe(
    model: Any, linears: Mapping[str, OnnxLinear], path: Path, *, with_outputs: bool = False
) -> None:
    """Write the model with the input of every linear as an additional output of the graph, and if asked its output."""
    from patch_compile.onnx_io.write import write_onnx

    own = list(model.graph.outputs)
    for linear in linears.values():
        for value in (linear.x, linear.output) if with_outputs else (linear.x,):
            if value not in model.graph.outputs and not value.is_graph_input():
                model.graph.outputs.append(value)
    try:
        write_onnx(model, path)
    finally:
        model.graph.outputs[:] = own


def gather_moments(
    probe: Path,
    linears: Mapping[str, OnnxLinear],
    feeds: Feeds,
    folder: Path,
    progress: Callable[[str, int, int], object],
    threads: int | None = None,
) -> Moments:
    """Run the model of `write_probe`, and sum XᵀX of every linear in fp64, for as many linears at a time as fit into
    memory.

    threads: number of ONNX Runtime's threads, None for one per core. The sums may depend on it, by rounding.

    Raises PatchCompileError if the model does not run on the feeds, or if an X is not finite.
    """
    moments = Moments(folder, linears)
    groups = _groups(moments.leaders)
    done, total = 0, len(groups) * len(feeds)
    for group in groups:
        sums = {name: np.zeros((linear.shape[1],) * 2) for name, linear in group.items()}
        outputs = [str(linear.x.name) for linear in group.values()]
        for values in run_model(probe, feeds, outputs, threads):
            for (name, linear), x in zip(group.items(), values.values(), strict=True):
                sums[name] += _moment(linear, x)
            done += 1
            progress("inputs of linears", done, total)
        for name, moment in sums.items():
            moments.put(name, moment)
    return moments


def _moment(linear: OnnxLinear, x: NDArray[Any]) -> NDArray[np.float32]:
    import torch

    from masklearn import second_moment

    moment: NDArray[np.float32] = second_moment(torch.from_numpy(linear.rows(x))).numpy()
    if not bool(np.isfinite(moment).all()):
        raise PatchCompileError(
            f"The inputs of {linear.name} are not finite",
            "NaN, infinity or values too large for fp32 reach it on the calibration inputs.",
            f"Check the inputs that --calib gives, or leave the linear dense with --exclude '{linear.name}'.",
        )
    return moment


def _groups(leaders: Mapping[str, OnnxLinear]) -> list[dict[str, OnnxLinear]]:
    """Returns groups of linears whose sums fit into memory together, in graph order. A linear that does not fit is
    alone."""
    room = available_memory(usable_device("cpu")) // _SHARE
    groups: list[dict[str, OnnxLinear]] = [{}]
    used = 0
    for name, linear in leaders.items():
        size = linear.shape[1] ** 2 * _SUM_BYTES
        if groups[-1] and used + size > room:
            groups.append({})
            used = 0
        groups[-1][name] = linear
        used += size
    return groups
