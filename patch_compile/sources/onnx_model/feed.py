"""The linears of an ONNX model, fed to the methods of `masklearn` with their weights and the second moments of their inputs.

The moments are those of the dense model, for scores and for new weights alike: unlike a checkpoint, of which the pruned
blocks before send on what they give.

`oneshot`, ranked by error relative to the output's energy, is the default since it lost least: SmolLM2-135M as an fp16 ONNX
file, every third block at ratio .35 in tiles of 64×64, 16 windows of 256 tokens; perplexity on 8 others (dense 15.7) and
relative error of the logits: magnitude 35.7 and .54, wanda 22.7 and .42, sparsegpt 22.1 and .36, oneshot 21.2 and .33;
ranked by raw error, oneshot has 22.1 and .42.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from masklearn.checkpoint.store import WeightStore
from masklearn.device import usable_device
from masklearn.feed import Feed, Fisher, Group
from masklearn.recipe import LearnRecipe
from masklearn.shard import TensorEntry
from masklearn.traits import Need
from patch_compile.sources.onnx_model.linears import OnnxLinear
from patch_compile.sources.onnx_model.moments import Moments
from patch_compile.sources.onnx_model.weights import read_weight

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

__all__ = ["LACKS", "OnnxFeed"]

Found = TypeVar("Found")
LACKS: Mapping[Need, str] = {
    Need.LOSS: "An ONNX file has no loss.",
    Need.TRAINING: "An ONNX file has no gradients to train by.",
}
_NO_INPUTS = "No inputs are given to run the file on."
_CODES = {"FLOAT16": "F16", "BFLOAT16": "BF16"}


class OnnxFeed(Feed):
    """Linears of a file, one at a time. PatchCompileError for a weight that is damaged or does not fit the type."""

    def __init__(
        self,
        linears: Mapping[str, OnnxLinear],
        moments: Moments | None,
        recipe: LearnRecipe,
        dtype: ir.DataType,
        progress: Callable[[str, int, int], object],
        note: Callable[[str], object],
    ) -> None:
        """moments: None where nothing is known of the inputs; dtype: the 16-bit type that weights are packed in."""
        self.recipe = recipe
        self.shapes = {name: linear.shape for name, linear in linears.items()}
        self.note = note
        self.lacks = LACKS if moments is not None else {**LACKS, Need.INPUTS: _NO_INPUTS}
        self._linears, self._moments, self._dtype, self._progress = linears, moments, dtype, progress
        self._device = usable_device(recipe.device)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Reads weights as the file stores them, onto the recipe's device."""
        for done, name in enumerate(self.shapes, start=1):
            yield name, self._weight(name)
            self._progress("scoring", done, len(self.shapes))

    def norms(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        """Takes ‖x‖² from the diagonal of XᵀX."""
        for name, weight in self.weights():
            yield name, weight, self._moment(name).diagonal()

    def moments(
        self,
        see: Callable[[Group], Mapping[str, Found]],
        windows: int,  # noqa: ARG002
        *,
        fisher: bool = False,
    ) -> Iterator[tuple[str, Found, Fisher | None]]:
        """Gives each linear as a group of its own, on all inputs that were given."""
        if fisher:
            raise ValueError(LACKS[Need.LOSS])
        for name, weight in self.weights():
            yield name, see(self._group(name, weight))[name], None

    def replace(self, solve: Callable[[Group], Mapping[str, torch.Tensor]], store: WeightStore) -> None:
        """Solves each linear on its own; weights that `solve` leaves as they are do not enter the store."""
        for done, name in enumerate(self.shapes, start=1):
            weight = self._weight(name)
            found = solve(self._group(name, weight))[name]
            if not bool((found == weight).all()):
                code = _CODES[self._dtype.name]
                store.put(name, found, TensorEntry(code, tuple(found.shape), 0, 0))
            self._progress("solving", done, len(self.shapes))

    def _group(self, name: str, weight: torch.Tensor) -> Group:
        return Group({name: weight}, self._moment(name), 1)

    def _weight(self, name: str) -> torch.Tensor:
        import torch

        return torch.from_numpy(read_weight(self._linears[name], self._dtype)).to(self._device)

    def _moment(self, name: str) -> torch.Tensor:
        import torch

        assert self._moments is not None  # it is among what the feed lacks
        return torch.from_numpy(self._moments.read(name)).to(self._device)
