"""Feeds the linears of an ONNX model to the methods of `masklearn`, with their weights and the second moments of their
inputs.

The moments always come from the dense model, for scores and for new weights. For a checkpoint they come from inputs that
passed through the blocks already pruned.

`oneshot`, ranked by error relative to the output's energy, is the default because it lost least. Measured on SmolLM2-135M
as an fp16 ONNX file, every third block at ratio .35 in tiles of 64×64, 16 windows of 256 tokens; perplexity on 8 other
windows (dense 15.7) and relative error of the logits: magnitude 35.7 and .54, wanda 22.7 and .42, sparsegpt 22.1 and .36,
oneshot 21.2 and .33, oneshot ranked by raw error 22.1 and .42.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masklearn import Arrays, Feed, Fisher, Group, LearnRecipe, Replaced, Requires
from masklearn.base.device import available_memory, usable_device
from masklearn.base.shard import TensorEntry
from masklearn.model.store import WeightStore
from patch_compile.errors import PatchCompileError
from patch_compile.onnx_io.compare import load_array, save_array
from patch_compile.onnx_io.feeds import Feeds
from patch_compile.onnx_io.own_process import run_model
from patch_compile.passes.linears import Linear

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

LACKS: Mapping[Requires, str] = {
    Requires.LOSS: "An ONNX file has no loss.",
    Requires.TRAINING: "An ONNX file has no gradients to train by.",
}
_NO_INPUTS = "No inputs are given to run the file on."
_SHARE = 4  # sums take a quarter of the free memory: the model and its activations need the rest
_SUM_BYTES = 8  # sums are fp64 because they may add up millions of rows
_CODES = {"FLOAT16": "F16", "BFLOAT16": "BF16"}


class Moments:
    """XᵀX by linear, in one file for each distinct X. Linears with the same X (q, k and v) share a file."""

    def __init__(self, folder: Path, linears: Mapping[str, Linear]) -> None:
        self._folder = folder
        xs: dict[Any, str] = {}
        for name, linear in linears.items():
            xs.setdefault(linear.x, name)
        self._leader = {name: xs[linear.x] for name, linear in linears.items()}
        self.leaders = {name: linears[name] for name in dict.fromkeys(self._leader.values())}
        self._rows: dict[str, int] = {}

    def read(self, name: str) -> NDArray[np.float32]:
        """Returns XᵀX `[K, K]` of a linear's inputs."""
        return load_array(self._file(self._leader[name]))

    def rows(self, name: str) -> int:
        """Returns the number of rows of a linear's X."""
        return self._rows[self._leader[name]]

    def put(self, leader: str, total: NDArray[np.float64], rows: int) -> None:
        """Write the sum of the linear that represents all linears with the same X; rows: of X."""
        self._rows[leader] = rows
        self._folder.mkdir(parents=True, exist_ok=True)
        save_array(self._file(leader), total.astype(np.float32))

    def _file(self, leader: str) -> Path:
        return self._folder / f"{list(self.leaders).index(leader)}.npy"


def write_probe(model: Any, linears: Mapping[str, Linear], path: Path, *, with_outputs: bool = False) -> None:
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
    linears: Mapping[str, Linear],
    feeds: Feeds,
    folder: Path,
    progress: Callable[[str, int, int], object],
    threads: int | None = None,
) -> Moments:
    """Run the model of `write_probe`, and sum XᵀX of every linear in fp64, for as many linears at a time as fit into
    memory.

    threads: number of ONNX Runtime's threads, None for one thread per core. The sums may depend on it, by rounding.

    Raises PatchCompileError if the model does not run on the feeds, or if an X is not finite.
    """
    moments = Moments(folder, linears)
    groups = _groups(moments.leaders)
    done, total = 0, len(groups) * len(feeds)
    for group in groups:
        sums = {name: np.zeros((linear.shape[1],) * 2) for name, linear in group.items()}
        rows = dict.fromkeys(group, 0)
        outputs = [str(linear.x.name) for linear in group.values()]
        for values in run_model(probe, feeds, outputs, threads):
            for (name, linear), x in zip(group.items(), values.values(), strict=True):
                sums[name] += _moment(linear, x)
                rows[name] += x.size // linear.shape[1]
            done += 1
            progress("inputs of linears", done, total)
        for name, moment in sums.items():
            moments.put(name, moment, rows[name])
    return moments


def _moment(linear: Linear, x: NDArray[Any]) -> NDArray[np.float32]:
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


def _groups(leaders: Mapping[str, Linear]) -> list[dict[str, Linear]]:
    """Returns groups of linears whose sums fit into memory together, in graph order. A linear that does not fit gets a group
    of its own."""
    room = available_memory(usable_device("cpu")) // _SHARE
    groups: list[dict[str, Linear]] = [{}]
    used = 0
    for name, linear in leaders.items():
        size = linear.shape[1] ** 2 * _SUM_BYTES
        if groups[-1] and used + size > room:
            groups.append({})
            used = 0
        groups[-1][name] = linear
        used += size
    return groups


class OnnxFeed(Feed):
    """Linears of a file, one at a time. Raises PatchCompileError for a damaged weight and for a weight that the type
    cannot hold."""

    def __init__(
        self,
        linears: Mapping[str, Linear],
        moments: Moments | None,
        recipe: LearnRecipe,
        dtype: ir.DataType,
        progress: Callable[[str, int, int], object],
        note: Callable[[str], object],
    ) -> None:
        """moments: None if nothing is known of the inputs; dtype: the 16-bit type that weights are packed in."""
        self.recipe = recipe
        self.shapes = {name: linear.shape for name, linear in linears.items()}
        self.note = note
        self.why_not = LACKS if moments is not None else {**LACKS, Requires.INPUTS: _NO_INPUTS}
        self._linears, self._moments, self._dtype, self._progress = linears, moments, dtype, progress
        self._device = usable_device(recipe.device)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each weight as the file stores it, on the recipe's device."""
        for done, name in enumerate(self.shapes, start=1):
            yield name, self._weight(name)
            self._progress("scoring", done, len(self.shapes))

    def norms(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Yield each weight with ‖x‖² of its inputs, which is the diagonal of XᵀX."""
        for name, weight in self.weights():
            yield name, weight, self._moment(name).diagonal()

    def moments(
        self,
        see: Callable[[Group], Mapping[str, Arrays]],
        windows: int,  # noqa: ARG002
        key: str,  # noqa: ARG002
        *,
        fisher: int = 0,
    ) -> Iterator[tuple[str, Arrays, Fisher | None]]:
        """Yield the result of `see` for each linear, which is a group of its own and sees all given inputs."""
        if fisher:
            raise ValueError(LACKS[Requires.LOSS])
        for name, weight in self.weights():
            yield name, see(self._group(name, weight))[name], None

    def replace(
        self,
        solve: Callable[[Group], Mapping[str, Replaced]],
        store: WeightStore,
        key: str,  # noqa: ARG002
        what: str = "solving",
    ) -> dict[str, Arrays]:
        """Solve each linear on its own. Weights that `solve` does not change are not put into the store."""
        arrays: dict[str, Arrays] = {}
        for done, name in enumerate(self.shapes, start=1):
            weight = self._weight(name)
            solved = solve(self._group(name, weight))[name]
            arrays[name] = solved.stored
            if not bool((solved.values == weight).all()):
                self.put(store, name, solved.values)
            self._progress(what, done, len(self.shapes))
        return arrays

    def put(self, store: WeightStore, name: str, weight: torch.Tensor) -> None:
        """Store the weight in the type that weights are packed in."""
        store.put(name, weight, TensorEntry(_CODES[self._dtype.name], tuple(weight.shape), 0, 0))

    def _group(self, name: str, weight: torch.Tensor) -> Group:
        assert self._moments is not None  # otherwise the feed says that it lacks moments
        return Group({name: weight}, self._moment(name), self._moments.rows(name), 1)

    def _weight(self, name: str) -> torch.Tensor:
        import torch

        return torch.from_numpy(self._linears[name].checked_weight(self._dtype)).to(self._device)

    def _moment(self, name: str) -> torch.Tensor:
        import torch

        assert self._moments is not None  # otherwise the feed says that it lacks moments
        return torch.from_numpy(self._moments.read(name)).to(self._device)
