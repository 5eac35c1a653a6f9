"""A recipe together with the facts about its model that plans need, and the types, kinds and plans that follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from masklearn.choice.menu import allowed_kinds, allowed_types, quantised_types
from masklearn.masks.kinds.base import TileKind
from masklearn.quant.table import FLOAT16, QUANTISED, WeightType
from patch_compile.artifacts.prediction import Workload
from patch_compile.artifacts.report import Kind
from patch_compile.planning.lowering import asked_lowerings
from patch_compile.planning.planner import plan_assumed, plan_model
from patch_compile.plugin.kernels import kernels_for

if TYPE_CHECKING:
    from masklearn.masks.linear_mask import LinearMask
    from masklearn.masks.maskset import MaskSet
    from patch_compile.planning.cost import CostModel
    from patch_compile.planning.lowering import LinearPlan
    from patch_compile.planning.outline import Outline
    from patch_compile.planning.tile_map import TileKinds
    from patch_compile.recipe import Recipe
    from patch_compile.sources.base import Source


@dataclass(frozen=True, eq=False)
class PlanTask:
    """A recipe, and what it plans.

    name: of the model; linears: the covered linears, name to (N, K); given_types: types of the linears of a quantised
    checkpoint; outline: costs of the model outside its linears, None if no speed is predicted; decodes: True if the model
    generates tokens.
    """

    recipe: Recipe
    name: str
    linears: Mapping[str, tuple[int, int]]
    given_types: Mapping[str, WeightType]
    outline: Outline | None
    decodes: bool

    @classmethod
    def of(cls, source: Source) -> PlanTask:
        """Returns the task of a source with its own recipe. It reads no weights."""
        linears, decodes = source.coverage.linears, source.kind is Kind.DECODER
        return cls(source.recipe, source.name, linears, source.given_types, source.outline, decodes)

    def with_settings(self, **settings: Any) -> PlanTask:
        """Returns the task with other settings in its recipe."""
        return replace(self, recipe=self.recipe.model_copy(update=settings))

    @property
    def workload(self) -> Workload | None:
        """The workload that speed is predicted for; None if no speed is predicted."""
        r = self.recipe
        load = Workload(batch=r.batch_size, prompt=r.prompt_tokens, generated=r.generated_tokens)
        if self.outline is None:
            return None
        return load if self.decodes else load.without_decode()

    @cached_property
    def types(self) -> Mapping[str, tuple[WeightType, ...]]:
        """Types that the weights of each linear may have: one, unless the recipe lets them be chosen."""
        by_time = self.recipe.goal is not None
        return allowed_types(self.recipe.weights, self.linears, self.given_types, by_time=by_time)

    @cached_property
    def kinds(self) -> Mapping[str, tuple[TileKind, ...]]:
        """Kinds that the tiles of each linear may have, besides dense."""
        return allowed_kinds(self.recipe.kinds, self.linears, self.recipe.tile_size, self.types)

    @property
    def chooses_types(self) -> bool:
        """True if the recipe lets weight types be chosen for its goal."""
        return any(len(types) > 1 for types in self.types.values())

    @property
    def types_of_lowering(self) -> tuple[str, ...]:
        """Names of the weight types that the requested lowerings take, the graph's type first."""
        split = "split" in asked_lowerings(self.recipe.lowering, list(self.linears)).values()
        quantised = (name for name, kind in QUANTISED.items() if not (split and kind.widened))
        return (self.recipe.dtype, *quantised)

    def weight_types(self, masks: MaskSet | None = None) -> dict[str, WeightType]:
        """Returns the types of the quantised linears: the types in the masks, or the requested types if the masks are not
        quantised. Raises UsageError without masks if types are still to be chosen."""
        if masks is not None and (masks.grids or self.chooses_types):
            return {name: grid.type for name, grid in masks.grids.items()}
        return quantised_types(self.recipe.weights, self.linears, self.given_types)

    def kernels(self, masks: MaskSet | None) -> frozenset[str]:
        """Returns the groups of the plugin's kernels that an engine may run, see `plugin.kernels`: kinds and types that are
        still to be chosen may be any that the recipe allows. masks: given masks, None if masks are learned."""
        types, kinds = self.types, self.kinds if masks is None else {}
        if masks is not None:
            quantised = self.weight_types(masks)
            kinds = {name: tuple(mask.by_kind()) for name, mask in masks.items()}
            types = {name: (quantised.get(name, FLOAT16),) for name in self.linears}
        # Tiles may all stay dense.
        return frozenset(
            group
            for name in self.linears
            for weights in types[name]
            for slabs in ((), kinds[name])
            if (group := kernels_for(self.recipe.dtype, weights, slabs))
        )

    def plan(
        self,
        masks: Mapping[str, LinearMask] | Mapping[str, TileKinds],
        costs: CostModel | None,
        weights: Mapping[str, WeightType] | None = None,
    ) -> dict[str, LinearPlan]:
        """Choose the lowering of each linear, as requested or by predicted speed.

        weights: types of the quantised linears, None for the requested types.
        """
        types = self.weight_types() if weights is None else weights
        return plan_model(masks, self.recipe.lowering, self.outline, costs, types)

    def plan_at(self, ratios: Mapping[str, float], costs: CostModel | None) -> dict[str, LinearPlan]:
        """Choose the lowering of each linear without masks, as if it had this ratio."""
        r, types = self.recipe, self.weight_types()
        return plan_assumed(
            self.linears, r.tile_size, ratios, r.lowering, costs, self.kinds, types, self.outline
        )
