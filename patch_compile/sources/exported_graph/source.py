"""A checkpoint together with the graph that another program exported from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from masklearn.model.checkpoint import Checkpoint
from patch_compile.artifacts.plan import Reason, ReasonKind
from patch_compile.artifacts.stage_files import sha256_of
from patch_compile.artifacts.workspace import key_of
from patch_compile.errors import PatchCompileError, UsageError
from patch_compile.onnx_io.proto import refusing_invalid
from patch_compile.onnx_io.read import OLDEST_OPSET, read_as_exported
from patch_compile.packing.fusion import QKV
from patch_compile.passes.find_linears import linears_of_file
from patch_compile.passes.linears import FoundLinears
from patch_compile.planning.lowering import LinearPlan
from patch_compile.recipe import GraphRecipe, Recipe
from patch_compile.sources.base import Bars, Source, Stage
from patch_compile.sources.checkpoint_weights import CheckpointWeights
from patch_compile.sources.exported_graph.match import (
    Matches,
    Origin,
    WeightIndex,
    mask_in_place,
    masked_of,
    match_linears,
)
from patch_compile.sources.formats import ONNX_FILE
from patch_compile.sources.plan_task import PlanTask

if TYPE_CHECKING:
    import onnx_ir as ir

    from masklearn.masks.linear_mask import LinearMask
    from patch_compile.passes import PassDump

_KEPT = {
    "opset": f"An exported graph keeps its opset ({OLDEST_OPSET} where it is older).",
    "logits": "An exported graph keeps its outputs.",
}


class ExportedSource(CheckpointWeights, Source):
    """A checkpoint whose graph comes from a file. It can only be compiled."""

    def __init__(self, recipe: GraphRecipe, checkpoint: Checkpoint) -> None:
        super().__init__(recipe, checkpoint)
        self._asked, self.graph = recipe, recipe.graph
        for name, why in _KEPT.items():
            if name in recipe.model_fields_set:
                raise UsageError(f"--{name} does not go with --graph", why, "Leave it out.")

    @property
    @override
    def recipe(self) -> GraphRecipe:
        """The settings, with the graph's own 16-bit type."""
        return self._settings

    @property
    @override
    def files(self) -> Sequence[Path]:
        return (*super().files, *ONNX_FILE.files_of(self.graph))

    @cached_property
    @override
    def graph_key(self) -> str:
        return key_of(*map(sha256_of, ONNX_FILE.files_of(self.graph)))

    @override
    def check(self, stages: Collection[Stage]) -> None:
        """Find the linears of the masks in the graph. Raises PatchCompileError if the graph has none of them, or if its
        other weights do not belong to the masks."""
        self._checkpoint.check_unchanged()
        self.check_masks()
        self._check_scales(PlanTask.of(self).types)
        if not self._matches.products and not self._matches.in_place:
            raise self._of_another()
        self._check_rest()

    @property
    @override
    def notes(self) -> Sequence[str]:
        """Lines about the linears that were found, and a line for each reason why some were not."""
        matches = self._matches
        masked = [name for name in self.coverage.linears if name in matches.found]
        count = f"{len(masked)} of {len(self.coverage.linears)} linears with masks"
        lines = [f"graph: {count} are in {self.graph}, with the weights of {self._origin_words()}"]
        for kind in dict.fromkeys(matches.refused.values()):
            names = [name for name, why in matches.refused.items() if why is kind]
            lines.append(f"warning: {_NOTES[kind]}: {', '.join(names)}")
        return (*super().notes, *lines)

    def _origin_words(self) -> str:
        if self._matches.origins[Origin.PRUNED] > self._matches.origins[Origin.MODEL]:
            return "the pruned model"
        return str(self.model)

    @override
    def write_hybrid(
        self,
        weights: Path,
        masks: Mapping[str, LinearMask],
        plan: Mapping[str, LinearPlan],
        path: Path,
        bars: Bars,
        dump: PassDump | None = None,
    ) -> dict[str, LinearPlan]:
        """Write the graph with masked weights, and PatchLinear nodes as planned. Other nodes, and all inputs and outputs,
        stay as they are. Linears that the graph does not hold as GEMMs of their own stay dense."""
        from patch_compile.passes.lowering.separate_transposes import SeparateTransposesPass
        from patch_compile.passes.lowering.stack_joined import StackJoinedPass
        from patch_compile.passes.lowering.substitute_linears import SubstituteLinearsPass
        from patch_compile.passes.write import reader_of, sinking_passes, write_lowered

        refused = {
            name: plan[name].in_16_bits().changed(lowering="dense", reason=Reason(kind=why))
            for name, why in self._matches.refused.items()
        }
        plan = {**plan, **refused}
        lowered = {name: linear for name, linear in plan.items() if linear.lowering != "dense"}
        dtype, fuse, checkpoint = self._dtype, self.recipe.fuse, Checkpoint.open(weights)
        read_stored = reader_of(checkpoint, lowered, dtype)

        def read(name: str) -> NDArray[Any]:
            if name in substitution.biases:
                return substitution.biases[name].numpy()
            linear = name.removesuffix(".weight")
            return read_stored(name) if linear in lowered else masked_of(checkpoint, linear, masks)

        narrowed = any(product.linear.dtype != dtype for product in self._matches.products)
        substitution = SubstituteLinearsPass(self._matches.products, lowered, read, dtype)
        for stored in self._matches.stored():
            if not lowered.keys() & {part.name for part in stored.parts}:
                mask_in_place(stored, checkpoint, masks)
        with bars("pack") as update:
            made = write_lowered(
                self._model,
                masks,
                lowered,
                read,
                dtype,
                path,
                update,
                fuse=fuse,
                dump=dump,
                before=[substitution, *(sinking_passes(dtype, fuse) if narrowed else [])],
                stacking=[StackJoinedPass(substitution.joined, lowered)] if QKV in fuse else [],
                after=[SeparateTransposesPass()],
            )
        return {**plan, **made}

    @override
    def space(self, recipe: Recipe, stages: Collection[Stage]) -> int:
        """Returns bytes: at most the graph's own size."""
        return sum(file.stat().st_size for file in ONNX_FILE.files_of(self.graph))

    @property
    def _dtype(self) -> ir.DataType:
        import onnx_ir as ir

        return ir.DataType[self.recipe.dtype.upper()]

    @cached_property
    def _model(self) -> ir.Model:
        with refusing_invalid(self.graph):
            return read_as_exported(self.graph)

    @cached_property
    def _found(self) -> FoundLinears:
        return linears_of_file(self.graph, self._model)

    @cached_property
    def _settings(self) -> GraphRecipe:
        recipe = self._asked
        types = {linear.dtype.name.lower() for linear in self._found.linears.values()} - {"float"}
        if len(types) > 1:
            return recipe
        for own in types:
            if "dtype" in recipe.model_fields_set and recipe.dtype != own:
                raise UsageError(
                    f"--dtype {recipe.dtype} does not go with {self.graph}",
                    f"Its linears compute in {own}, and an exported graph keeps its type.",
                    "Leave --dtype out, or export the graph in another type.",
                )
            return recipe.model_copy(update={"dtype": own})
        return recipe

    @cached_property
    def _matches(self) -> Matches:
        coverage, masks = self.coverage, self.given.masks
        model = self._checkpoint
        pruned = model if self.given.weights == self.model else Checkpoint.open(self.given.weights)
        shapes = dict(coverage.linears)
        for name in coverage.skipped:
            if f"{name}.weight" in model and len(shape := model.shape(f"{name}.weight")) == 2:
                shapes[name] = (shape[0], shape[1])

        @cache
        def index_of(dtype: ir.DataType) -> WeightIndex:
            return WeightIndex.of(shapes, model, pruned, masks, dtype)

        return match_linears(self._model.graph, self._found, shapes, masks, index_of)

    def _check_rest(self) -> None:
        """Raise PatchCompileError if masks came with new weights, some outside the masked linears, and the graph has the old
        weights."""
        weights = self.given.weights
        if weights == self.model or not self._matches.origins[Origin.MODEL]:
            return
        pruned, model = Checkpoint.open(weights), self._checkpoint
        masked = {f"{name}.weight" for name in self.given.masks}
        for name in model.names():
            if name not in masked and not np.array_equal(model.read(name), pruned.read(name)):
                raise PatchCompileError(
                    f"{self.graph} was exported from {self.model}, and these masks belong to {weights}",
                    f"The two differ in {name}, which has no mask.",
                    f"Export the graph from {weights}.",
                )

    def _of_another(self) -> PatchCompileError:
        alike, count = self._matches.like_shaped, len(self._found.linears)
        why = (
            f"{alike} of its {count} GEMMs have the shape of a linear of the model, and other numbers: it is the graph "
            "of another checkpoint, or its exporter changed the weights."
            if alike
            else f"None of its {count} GEMMs has the shape of a linear of the model: it is the graph of another model."
        )
        return PatchCompileError(
            f"{self.graph} holds no linear of {self.model}",
            why,
            f"Export it from {self.model} or from the pruned model of the masks, in float16, bfloat16 or float32.",
        )


_NOTES = {
    ReasonKind.NOT_IN_GRAPH: "linears whose numbers are in no GEMM of the graph, which keep the graph's weights",
    ReasonKind.READ_TWICE: "linears with more than one GEMM in the graph, which are masked and not packed",
    ReasonKind.READ_OTHERWISE: "linears whose weight the graph also reads as something else, which keep the graph's weights",
    ReasonKind.ALIKE: "linears with the numbers of others, which no name tells apart, and which keep the graph's weights",
}
