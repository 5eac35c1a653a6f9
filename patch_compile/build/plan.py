"""The command `plan`: predicts how a build would compile each linear and how fast the model would be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from masklearn.checkpoint.coverage import Coverage
from masklearn.masks.budget import Budget
from masklearn.masks.maskset import MaskSet
from patch_compile.build.summary import skipped_of
from patch_compile.errors import PatchCompileError
from patch_compile.export.architectures import check_exportable
from patch_compile.hardware.gpu import local_gpu
from patch_compile.out.plan import Asked, PlanOfModel, TargetSource
from patch_compile.plan.cards import DEFAULT_TARGET, PlanCard, card_of, card_of_gpu
from patch_compile.plan.cost import CostModel
from patch_compile.plan.lowering import LinearPlan, plan_linears
from patch_compile.plan.outline import Outline
from patch_compile.plan.planner import assumed_plans, plan_of, settle_together
from patch_compile.plan.predict import PhaseTimes, predict_whole
from patch_compile.plan.speed_goal import ratio_for
from patch_compile.recipe import Recipe
from patch_compile.sources.kinds import Ability
from patch_compile.sources.open import open_source

__all__ = ["plan"]

Plans = dict[str, LinearPlan]


def plan(recipe: Recipe) -> PlanOfModel:
    """Predict the result of `build` with this recipe. Reads the config, the headers and, if given, the masks, but no
    weights.

    Raises PatchCompileError for a target that is not in the table of cards and for the models and masks that `build`
    refuses, and SpeedError for a speed that cannot be reached.
    """
    source = open_source(recipe)
    source.require(Ability.PLAN)
    check_exportable(source.checkpoint)
    coverage, outline = source.coverage, source.outline
    assert outline is not None and source.workload is not None
    card, target, target_source = _card(recipe.target)
    planner = _Planner(
        recipe,
        coverage,
        outline,
        CostModel(card, source.workload),
    )
    plans = planner.with_masks(recipe.mask) if recipe.mask else planner.with_ratio()
    made = plan_of(plans, planner.outline, planner.costs)
    return PlanOfModel(
        **{name: getattr(made, name) for name in type(made).model_fields},
        model=str(recipe.model.resolve()),
        asked=planner.asked,
        target=target,
        target_source=target_source,
        ratio=sum(p.zeroed for p in plans.values()) / sum(p.shape[0] * p.shape[1] for p in plans.values()),
        skipped=skipped_of(coverage),
    )


def _card(target: str | None) -> tuple[PlanCard, str, TargetSource]:
    """Returns the card to predict for, the target that it belongs to, and the source of that target."""
    if target is not None:
        return card_of(target), target, TargetSource.ASKED
    gpu = local_gpu()
    if gpu is None:
        return card_of(DEFAULT_TARGET), DEFAULT_TARGET, TargetSource.DEFAULT
    card = card_of_gpu(gpu)
    if card is None:
        raise PatchCompileError(
            f"The table of cards has no card for {gpu.name}",
            "No target was given, so the plan is for the GPU of this machine.",
            "Give --target a6000, or another card.",
        )
    return card, gpu.name, TargetSource.LOCAL_GPU


@dataclass(frozen=True)
class _Planner:
    recipe: Recipe
    coverage: Coverage
    outline: Outline
    costs: CostModel

    @property
    def asked(self) -> Asked:
        """The requested amount of pruning."""
        r = self.recipe
        mask = str(r.mask) if r.mask is not None else None
        return Asked(ratio=r.ratio, mask=mask, speedup=r.speedup, budget_ms=r.budget_ms)

    def with_masks(self, file: Path) -> Plans:
        """Plan for the tile maps of a file of masks."""
        masks = MaskSet.load(file)
        masks.check_covers(self.coverage.linears)
        return self._settled(plan_linears(masks, self.recipe.lowering, self.costs))

    def with_ratio(self) -> Plans:
        """Plan for the requested ratio, or for the ratio that reaches the requested speed."""
        r = self.recipe
        if r.goal is not None:
            ratio = ratio_for(r.goal, self._end_to_end)
            return self._at(dict.fromkeys(self.coverage.linears, ratio))
        assert r.ratio is not None  # the recipe has checked it
        budget = Budget.of(r.ratio, r.per_layer)
        decided = budget.by_linear(list(self.coverage.linears))
        return self._at({name: found[1] if found else 0.0 for name, found in decided.items()})

    def _end_to_end(self, ratio: float) -> PhaseTimes:
        plans = self._at(dict.fromkeys(self.coverage.linears, ratio))
        return predict_whole(plans.values(), self.outline, self.costs).end_to_end

    def _at(self, ratios: Mapping[str, float]) -> Plans:
        r = self.recipe
        return self._settled(assumed_plans(self.coverage.linears, r.tile, ratios, r.lowering, self.costs))

    def _settled(self, plans: Plans) -> Plans:
        return settle_together(plans, self.recipe.lowering, self.outline, self.costs)
