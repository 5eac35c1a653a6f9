"""The command `plan`: predicts how a build would compile each linear and how fast the model would be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from masklearn.base.errors import MaskLearnError
from masklearn.choice.menu import allowed_kinds, named_types
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import ChoiceRecord
from masklearn.model.hub import spelled
from masklearn.quant.table import W8A8, WeightType, weight_type
from patch_compile.artifacts.plan import Plan
from patch_compile.artifacts.plan_of_model import (
    Memory,
    OtherTypes,
    PlanOfModel,
    TargetRow,
    TargetSource,
)
from patch_compile.debug import LINEARS, tell
from patch_compile.errors import PatchCompileError, SpeedError
from patch_compile.hardware.cards import parse_targets
from patch_compile.hardware.gpu import local_gpu
from patch_compile.onnx_export.architectures import check_exportable
from patch_compile.pipeline.choose import (
    little_gain,
    plans_as_asked,
    plans_for_ratio,
    ratio_of,
    settle_open,
    with_assumed_types,
)
from patch_compile.pipeline.summary import skipped_of
from patch_compile.planning.cards import DEFAULT_TARGET, PlanCard, card_of, card_of_gpu, find_card
from patch_compile.planning.cost import CostModel
from patch_compile.planning.lowering import AUTO, LinearPlan
from patch_compile.planning.outline import Outline
from patch_compile.planning.planner import plan_json
from patch_compile.planning.predict import predict_whole, regime
from patch_compile.recipe import WHOLE_ROWS, Recipe
from patch_compile.report.prediction import decision_line
from patch_compile.sources.base import TextSource
from patch_compile.sources.open import needed, open_source
from patch_compile.sources.plan_task import PlanTask

_ELEMENT = 2  # bytes of an fp16 or bf16 number
MemoryOf = Callable[[Mapping[str, LinearPlan]], Memory]


def plan(recipe: Recipe) -> PlanOfModel:
    """Predict the result of `build` with this recipe. Reads the config, the headers and, if given, the masks, but no
    weights. Only the config is needed.

    With several targets it predicts for the first that has a card, and adds a row for each.

    Raises PatchCompileError for a target that is not in the table of cards and for the models and masks that `build`
    refuses, and SpeedError for a speed that cannot be reached.
    """
    planned = _plan(recipe)
    names = [target.name for target in parse_targets(recipe.target)] if recipe.target is not None else []
    if len(names) < 2:
        return planned
    return planned.model_copy(update={"targets": tuple(_row_of_target(name, recipe) for name in names)})


def _row_of_target(target: str, recipe: Recipe) -> TargetRow:
    if (card := find_card(target)) is None:
        return TargetRow(target=target)
    try:
        planned = _plan(recipe.model_copy(update={"target": target}))
    except SpeedError:
        return TargetRow(target=target, card=card.row())
    fits = planned.memory.fits
    return TargetRow(
        target=target, card=card.row(), fits=fits, ratio=planned.ratio, whole=planned.whole if fits else None
    )


def _plan(recipe: Recipe) -> PlanOfModel:
    recipe = _in_asked_type(recipe)
    recipe.check_weights()
    source = needed(open_source(recipe, weights=False), TextSource, "plan")  # type: ignore[type-abstract]
    check_exportable(source.checkpoint)
    task = PlanTask.of(source)
    outline, workload = task.outline, task.workload
    assert outline is not None and workload is not None
    card, target, target_source = _card(recipe.target)
    costs = CostModel(card, workload)
    settled = settle_open(task, costs)
    task = settled.task
    chooses = task.chooses_types
    if chooses:
        task = with_assumed_types(task, costs)
    plans, gains = plans_as_asked(task, costs)
    memory = partial(_memory, source, outline, costs)
    made = plan_json(plans, outline, costs)
    points = regime(plans.values(), outline, costs)
    choice, ratio = None, ratio_of(plans)
    if recipe.goal is not None and made.whole is not None:
        choice = ChoiceRecord(**recipe.goal.compared(made.whole.end_to_end), card=card.name)
    elif recipe.ratio is not None:
        reached, each = gains.reached if gains else ratio, recipe.per_layer
        choice = ChoiceRecord(unit="ratio", asked=recipe.ratio, per_layer=each, reached=reached, gains=gains)
    tell(LINEARS, map(decision_line, made.linears))
    return PlanOfModel(
        **dict(made) | {"choice": choice},
        model=spelled(recipe.model),
        asked=recipe.asked,
        target=target,
        target_source=target_source,
        memory=memory(plans),
        ratio=ratio,
        kinds=task.recipe.kinds,
        weights=_weights(plans, recipe),
        assumes_losses=chooses,
        types=tuple(_types(plans, task, recipe, made, costs, memory)),
        dequantised=source.dequantised,
        regime=points,
        tried=settled.tried,
        little_gain=little_gain(task, plans, costs, points),
        by_split=_by_split(task, made, costs),
        skipped=skipped_of(source.coverage),
    )


def _by_split(task: PlanTask, made: Plan, costs: CostModel) -> float | None:
    """Returns the speed-up of an encoder in W8A8 with its linears split, if it is predicted to be faster so; else None."""
    r = task.recipe
    types = {kind for own in task.types.values() for kind in own}
    if task.decodes or types != {W8A8} or r.ratio is None or r.lowering not in (AUTO, "plugin"):
        return None
    split = task.with_settings(lowering="split", tile=WHOLE_ROWS, kinds=TWO_FOUR.name)
    plans, _ = plans_for_ratio(split, costs)
    assert task.outline is not None and made.whole is not None
    speedup = predict_whole(plans.values(), task.outline, costs).end_to_end.speedup
    return speedup if speedup > made.whole.end_to_end.speedup else None


def _in_asked_type(recipe: Recipe) -> Recipe:
    """Returns the recipe with its graph in the 16-bit type that `weights` names: both 16-bit types take the same time."""
    named = [kind.name for kind in named_types(recipe.weights) if not kind.quantised]
    return recipe.model_copy(update={"dtype": named[0]}) if named else recipe


def _weights(plans: Mapping[str, LinearPlan], recipe: Recipe) -> str:
    """Returns the types that the linears have, as a value of `--weights`."""
    types = {plan.weight_type for plan in plans.values()}
    if recipe.weights is not None and len(types) > 1:
        return recipe.weights
    return ",".join(sorted(kind.name if kind.quantised else recipe.dtype for kind in types))


def _types(
    plans: Mapping[str, LinearPlan],
    task: PlanTask,
    recipe: Recipe,
    made: Plan,
    costs: CostModel,
    memory: MemoryOf,
) -> Iterator[OtherTypes]:
    """Yield the plan itself, if its linears have several types, and plans of the request with one type for all."""
    own = _weights(plans, recipe)
    same = task.types_of_lowering
    if own not in same:
        yield _type_row(own, plans, made, memory, planned=True)
    for weights in same:
        if weights == own:
            yield _type_row(own, plans, made, memory, planned=True)
        else:
            yield _other_type(weights, task, costs, memory)


def _type_row(
    weights: str, plans: Mapping[str, LinearPlan], made: Plan, memory: MemoryOf, *, planned: bool = False
) -> OtherTypes:
    return OtherTypes(
        weights=weights,
        planned=planned,
        ratio=ratio_of(plans),
        linears_bytes=made.totals.bytes_after,
        model_bytes=memory(plans).weights,
        whole=made.whole,
    )


def _other_type(weights: str, task: PlanTask, costs: CostModel, memory: MemoryOf) -> OtherTypes:
    """Returns the plan of the request with one type for all linears."""
    kind, linears = weight_type(weights), task.linears
    unfit = (name for name, (_, columns) in linears.items() if not kind.fits(columns))
    if (name := next(unfit, None)) is not None:
        return OtherTypes(weights=weights, unfit=name)
    if not _kinds_go_with(kind, task):
        return OtherTypes(weights=weights, wrong_kinds=True)
    typed = task.with_settings(weights=weights)
    try:
        plans, _ = plans_as_asked(typed, costs, of_masks=False)
    except SpeedError:
        return OtherTypes(weights=weights)
    return _type_row(weights, plans, plan_json(plans, typed.outline, costs), memory)


def _kinds_go_with(weights: WeightType, task: PlanTask) -> bool:
    """Returns True if tiles of the given masks, or of the kinds that the recipe names, can have weights of this type."""
    r, linears = task.recipe, task.linears
    if r.mask is not None:
        tiles = {kind for mask in MaskSet.load(r.mask).values() for kind in mask.by_kind()}
        return all(kind.goes_with(weights) for kind in tiles)
    try:
        allowed_kinds(r.kinds, linears, r.tile_size, dict.fromkeys(linears, (weights,)))
    except MaskLearnError:
        return False
    return True


def _memory(
    source: TextSource, outline: Outline, costs: CostModel, plans: Mapping[str, LinearPlan]
) -> Memory:
    """Returns the memory of the model on the card, with the KV cache of the whole workload."""
    load = costs.workload
    tokens = load.batch * (load.prompt + load.generated) if source.sequences.decodes else 0
    dense = _ELEMENT * source.size
    return Memory(
        dense_weights=dense,
        weights=dense - sum(plan.bytes_before - plan.bytes_after for plan in plans.values()),
        cache=2 * _ELEMENT * tokens * outline.model.layers * outline.model.kv,
        card=costs.card.rated.memory * 10**9,
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
