"""Feeds the linears of an ONNX model to the methods of `masklearn`, with their weights and the second moments of their
inputs.

The moments are always those of the dense model, for scores and for new weights. For a checkpoint they come from inputs
that passed through the blocks already pruned.

`oneshot`, ranked by error relative to the output's energy, is the default because it lost least. Measured on SmolLM2-135M
as an fp16 ONNX file, every third block at ratio .35 in tiles of 64×64, 16 windows of 256 tokens; perplexity on 8 other
windows (dense 15.7) and relative error of the logits: magnitude 35.7 and .54, wanda 22.7 and .42, sparsegpt 22.1 and .36,
oneshot 21.2 and .33, oneshot ranked by raw error 22.1 and .42.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from masklearn import Arrays, Feed, Fisher, Group, LearnRecipe, Replaced, Requires
from masklearn.base.device import usable_device
from masklearn.base.shard import TensorEntry
from masklearn.model.store import WeightStore
from patch_compile.sources.onnx_model.linears import OnnxLinear
from patch_compile.sources.onnx_model.moments import Moments
from patch_compile.sources.onnx_model.weights import read_weight

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

__all__ = ["LACKS", "OnnxFeed"]

LACKS: Mapping[Requires, str] = {
    Requires.LOSS: "An ONNX file has no loss.",
    Requires.TRAINING: "An ONNX file has no gradients to train by.",
}
_NO_INPUTS = "No inputs are given to run the file on."
_CODES = {"FLOAT16": "F16", "BFLOAT16": "BF16"}


class OnnxFeed(Feed):
    """Linears of a file, one at a time. Raises PatchCompileError for a damaged weight and for a weight that the type
    cannot hold."""

    def __init__(
        self,
        linears: Mapping[str, OnnxLinear],
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
        fisher: bool = False,
    ) -> Iterator[tuple[str, Arrays, Fisher | None]]:
        """Yield what `see` finds for each linear, which is a group of its own and sees all given inputs."""
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
        kept: dict[str, Arrays] = {}
        for done, name in enumerate(self.shapes, start=1):
            weight = self._weight(name)
            found, kept[name] = solve(self._group(name, weight))[name]
            if not bool((found == weight).all()):
                self.put(store, name, found)
            self._progress(what, done, len(self.shapes))
        return kept

    def put(self, store: WeightStore, name: str, weight: torch.Tensor) -> None:
        """Store the weight in the type that weights are packed in."""
        store.put(name, weight, TensorEntry(_CODES[self._dtype.name], tuple(weight.shape), 0, 0))

    def _group(self, name: str, weight: torch.Tensor) -> Group:
        return Group({name: weight}, self._moment(name), 1)

    def _weight(self, name: str) -> torch.Tensor:
        import torch

        return torch.from_numpy(read_weight(self._linears[name], self._dtype)).to(self._device)

    def _moment(self, name: str) -> torch.Tensor:
        import torch

        assert self._moments is not None  # it is among what the feed lacks
        return torch.from_numpy(self._moments.read(name)).to(self._device)
