"""Decides, before masks are learned, over which linears a ratio counts; checks that a speed can be reached, and that pruned
tiles are worth their loss."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from typing import TYPE_CHECKING

from masklearn import DEFAULT_TILE, chooser_of_recipe
from masklearn.choice.goal import Goal
from masklearn.choice.menu import spell_types
from masklearn.choice.solve import Chooser
from masklearn.masks.kinds.table import TWO_FOUR
from masklearn.masks.maskset import MaskSet
from masklearn.masks.name_globs import spell_by_name
from masklearn.masks.record import GainRecord
from masklearn.masks.tiles import spell_tile
from masklearn.quant.table import INT4, W8A8, weight_type
from patch_compile.artifacts.plan import LittleGain
from patch_compile.artifacts.plan_of_model import RegimePoint, Tried
from patch_compile.artifacts.prediction import PAYS
from patch_compile.errors import PatchCompileError, SpeedError
from patch_compile.planning.gains import ALL_SPARSE, GainGoal, WhereItGains
from patch_compile.planning.lowering import AUTO, asked_lowerings
from patch_compile.planning.predict import predict_whole
from patch_compile.planning.price_by_time import SpeedTask, assumed_choice, by_time, that_save
from patch_compile.report.prediction import gain_line, reason_lines
from patch_compile.sources.pruning import types_to_round

if TYPE_CHECKING:
    from patch_compile.planning.cost import CostModel
    from patch_compile.planning.lowering import LinearPlan
    from patch_compile.sources.plan_task import PlanTask

_TILES = (DEFAULT_TILE, (64, 64))
# Of the time that 2:4 tiles save, tiles of all kinds must save this share at the same ratio to be preferred: they lose .39
# to .61 times as many nats (SmolLM2-135M at .25 to .45, without repair and with it; docs/explanation/quality.md).
_ENOUGH = 0.6


def chooser_of(task: PlanTask, costs: CostModel | None, note: Callable[[str], object]) -> Chooser | None:
    """Returns the chooser for the requested speed, or for the ratio over the linears that gain.

    Returns None if the ratio counts over all linears. Raises SpeedError for a speed that cannot be reached, and
    PatchCompileError for a ratio at which no linear gains.
    """
    r = task.recipe
    if r.mask is not None:
        return None
    if r.goal is not None:
        assert costs is not None  # a goal without predictions was refused
        speed = _speed_task(task, costs)
        # Raises SpeedError before anything is learned.
        return by_time(speed, sure=assumed_choice(speed).types)
    gains = gain_goal(task, costs)
    if gains is None:
        return None
    plans, row = plans_with_ratio(task, gains, costs)
    _check_gain(task, gains, row, costs)
    for line in (gain_line(row), gains.goal.left_dense(list(plans))):
        if line:
            note(line)
    price = WhereItGains(gains, r.tile_size, lambda masks: task.plan(masks, costs), costs)
    return Chooser(task.types, price, gains.goal)


def with_pairs(
    chooser: Chooser | None, task: PlanTask, lowering: str, note: Callable[[str], object]
) -> Chooser | None:
    """Returns the chooser that chooses tiles of a gate and its up in pairs, if they may share a node: its slabs hold rows of
    both.

    chooser: None for the recipe's ratio or bytes over all linears; lowering: a value of `--lowering`.
    """
    r, linears = task.recipe, task.linears
    asked = asked_lowerings(lowering, list(linears))
    pairs = tuple(
        group.linears
        for group in (task.outline.groups if task.outline else ())
        if group.gated and all(asked.get(name) in (AUTO, "plugin") for name in group.linears)
    )
    if not pairs or r.mask is not None:
        return chooser
    return replace(chooser or chooser_of_recipe(r.learning(), linears, note, task.given_types), pairs=pairs)


def gain_goal(task: PlanTask, costs: CostModel | None) -> GainGoal | None:
    """Returns the requested ratio over the linears that can gain; None if `plugin` or `split` is asked for everywhere."""
    r, linears = task.recipe, task.linears
    assert r.ratio is not None  # the recipe has checked it
    if not {AUTO, "dense"} & {*asked_lowerings(r.lowering, list(linears)).values()}:
        return None
    goal = Goal.of_ratio(r.ratio, r.per_layer)
    return GainGoal.of(goal, linears, lambda ratios: task.plan_at(ratios, costs))


def plans_with_ratio(
    task: PlanTask, gains: GainGoal, costs: CostModel | None
) -> tuple[dict[str, LinearPlan], GainRecord]:
    """Returns the plans with the ratio spread evenly over the linears that gain, and the counts of these linears."""
    evenly = gains.settled_evenly(lambda ratios: task.plan_at(ratios, costs))
    plans = task.plan_at(evenly.evenly, costs)
    return plans, evenly.row({name: plan.zeroed for name, plan in plans.items()}, evenly.counted, costs)


def plans_with_speed(task: PlanTask, costs: CostModel) -> dict[str, LinearPlan]:
    """Returns the plans for the requested speed, as if every zeroed weight lost alike.

    Raises SpeedError if no tiles reach it, whatever their scores are.
    """
    speed = _speed_task(task, costs)
    choice = assumed_choice(speed)
    return speed.plans(choice.tiles.kinds, choice.types)


def with_assumed_types(task: PlanTask, costs: CostModel) -> PlanTask:
    """Returns the task with the weight types that a plan without scores assumes for the requested speed.

    Raises SpeedError if no types reach the speed.
    """
    return task.with_settings(weights=spell_types(assumed_choice(_speed_task(task, costs)).types))


@dataclass(frozen=True)
class Settled:
    """A task whose recipe leaves nothing open. tried: sizes or kinds of tiles if they were open, the taken first."""

    task: PlanTask
    tried: tuple[Tried, ...] = ()


def settle_open(task: PlanTask, costs: CostModel | None) -> Settled:
    """Choose what a recipe leaves open: the kinds of tiles for a ratio; for a speed also their size, and weight types; and
    if hidden channels are reordered.

    For a speed only the weight types and kinds that save time stay: fewer of them take less time to learn, and inputs of
    w8a8 are smoothed only where int4 is not offered. Raises SpeedError for a speed that no choice reaches.
    """
    r = task.recipe
    if r.mask is not None:
        return Settled(task)
    settled = Settled(task)
    if r.goal is None and costs is not None and r.leaves_kinds_open:
        settled = _with_kinds(task, costs)
    elif r.goal is not None:
        assert costs is not None  # a goal without predictions was refused
        task = _with_what_saves(task, costs)
        settled = Settled(task) if r.tile else _with_tile(task, costs)
    return replace(settled, task=_with_order(settled.task))


def _with_order(task: PlanTask) -> PlanTask:
    """Reorder the hidden channels of a decoder, if the recipe leaves it open; encoders were not measured.

    Not where int4 and w8a8 are both allowed: inputs are then smoothed after types are chosen, which permuted channels rule
    out.
    Nor in a quantised checkpoint, in which neighbours share scales.
    """
    r, types = task.recipe, {*chain.from_iterable(task.types.values())}
    if not r.leaves_order_open or not task.decodes or task.given_types or {INT4, W8A8} <= types:
        return task
    return task.with_settings(permute=True)


def plans_for_ratio(task: PlanTask, costs: CostModel) -> tuple[dict[str, LinearPlan], GainRecord | None]:
    """Returns the plans for the requested ratio over the linears that gain, with their counts; without counts if the ratio
    counts over all linears."""
    r = task.recipe
    gains = gain_goal(task, costs)
    if gains is not None:
        return plans_with_ratio(task, gains, costs)
    assert r.ratio is not None  # the recipe has checked it
    decided = Goal.of_ratio(r.ratio, r.per_layer).by_linear(list(task.linears))
    ratios = {name: decision[1] if decision else 0.0 for name, decision in decided.items()}
    return task.plan_at(ratios, costs), None


def plans_as_asked(
    task: PlanTask, costs: CostModel, *, of_masks: bool = True
) -> tuple[dict[str, LinearPlan], GainRecord | None]:
    """Plan for the given masks, for the requested speed, or for the ratio over the linears that gain.

    of_masks: False takes the requested types of weights even if the weights of the given masks are rounded to other types.
    """
    r = task.recipe
    if r.mask is not None:
        masks = MaskSet.load(r.mask)
        masks.check_covers(task.linears)
        if of_masks:
            types_to_round(masks, r.weights, r.mask, task.given_types)
        return task.plan(masks, costs, task.weight_types(masks if of_masks else None)), None
    if r.goal is not None:
        return plans_with_speed(task, costs), None
    return plans_for_ratio(task, costs)


def _with_kinds(task: PlanTask, costs: CostModel) -> Settled:
    """Choose all kinds of tiles, which lose less at the same ratio, if they save enough of the time that 2:4 tiles save."""
    outline = task.outline
    assert outline is not None  # there would be no costs
    every, two_four = task.with_settings(kinds=AUTO), task.with_settings(kinds=TWO_FOUR.name)
    if all(kinds == (TWO_FOUR,) for kinds in every.kinds.values()):
        return Settled(two_four)

    def speed_of(plans: Mapping[str, LinearPlan]) -> float:
        return predict_whole(plans.values(), outline, costs).end_to_end.speedup

    speeds = {choice: speed_of(plans_for_ratio(choice, costs)[0]) for choice in (every, two_four)}
    unpruned = speed_of(task.plan_at(dict.fromkeys(task.linears, 0.0), costs))
    saved, most = (1.0 - unpruned / speeds[choice] for choice in (every, two_four))
    if max(saved, most) <= 0.0:  # no kinds save time
        return Settled(two_four)
    order = (every, two_four) if saved >= max(0.0, _ENOUGH * most) else (two_four, every)
    tried = tuple(Tried(value=choice.recipe.kinds, figure=speeds[choice]) for choice in order)
    return Settled(order[0], tried)


def _with_what_saves(task: PlanTask, costs: CostModel) -> PlanTask:
    """Returns the task with the types and kinds that `auto` offers and that save time."""
    r = task.recipe
    if AUTO not in (r.weights, r.kinds):
        return task
    types, kinds = that_save(_speed_task(task, costs))
    if r.weights == AUTO and not task.given_types:
        offered = {
            name: ",".join(kind.name if kind.quantised else r.dtype for kind in own)
            for name, own in types.items()
        }
        task = task.with_settings(weights=spell_by_name(offered, AUTO))
    # A kind that only one of a linear's types has is no reason to offer all kinds to the others.
    only_two_four = all(
        kind is TWO_FOUR or not all(map(kind.goes_with, types[name]))
        for name, own in kinds.items()
        for kind in own
    )
    return task.with_settings(kinds=TWO_FOUR.name) if r.kinds == AUTO and only_two_four else task


def _with_tile(task: PlanTask, costs: CostModel) -> Settled:
    """Choose the size of tiles with which the speed takes the fewest zeros."""
    ratios: dict[tuple[int, int], float] = {}
    refused: list[SpeedError] = []
    for tile in _TILES:
        sized = task.with_settings(tile=tile)
        try:
            typed = with_assumed_types(sized, costs) if task.chooses_types else sized
            ratios[tile] = ratio_of(plans_with_speed(typed, costs))
        except SpeedError as error:
            refused.append(error)
    if not ratios:
        raise min(refused, key=lambda error: error.fastest)
    order = sorted(_TILES, key=lambda one: ratios.get(one, 1.0))  # the first of two equals
    tried = tuple(Tried(value=spell_tile(tile), figure=ratios.get(tile)) for tile in order)
    return Settled(task.with_settings(tile=order[0]), tried)


def ratio_of(plans: Mapping[str, LinearPlan]) -> float:
    """Returns the ratio over all covered weights."""
    return sum(plan.zeroed for plan in plans.values()) / sum(prod(plan.shape) for plan in plans.values())


def _speed_task(task: PlanTask, costs: CostModel) -> SpeedTask:
    r, linears = task.recipe, task.linears
    assert r.goal is not None and task.outline is not None
    asked = asked_lowerings(r.lowering, list(linears))
    # A split linear has weights of 16 bits; asked to have others, it is refused later.
    types = {
        name: tuple(kind for kind in own if asked[name] != "split" or not kind.quantised) or own
        for name, own in task.types.items()
    }
    return SpeedTask(r.goal, costs, task.outline, linears, r.tile_size, r.lowering, task.kinds, types)


def _check_gain(task: PlanTask, gains: GainGoal, row: GainRecord, costs: CostModel | None) -> None:
    """Raise PatchCompileError if a ratio is asked for, and no linear gains with it."""
    if not gains.asked or row.gaining:
        return
    names, counted = list(gains.linears), gains.counted
    if counted:
        plans = task.plan_at({name: counted.get(name, 0.0) for name in names}, costs)
        when = f"With --ratio {task.recipe.ratio}"
    else:
        plans = task.plan_at(dict.fromkeys(names, ALL_SPARSE), costs)
        when = "Even with all tiles 2:4"
    what, others = f"No linear of {task.name} would be pruned", "--ratio"
    if costs:
        what = f"No linear of {task.name} gains by pruning on {costs.card.name} with {costs.workload}"
        others = "--ratio, --target or workload (--batch-size, --prompt-tokens, --generated-tokens)"
    reasons = "; ".join(reason_lines(plans.values()))
    raise PatchCompileError(
        what,
        f"{when} each would be compiled dense, and pruning would lose quality for nothing ({reasons}).",
        f"Choose another {others}, or --lowering plugin, which prunes everywhere and packs all that is pruned.",
    )


def little_gain(
    task: PlanTask, plans: Mapping[str, LinearPlan], costs: CostModel, points: Collection[RegimePoint]
) -> LittleGain | None:
    """Returns what is better than pruned tiles that gain less than `PAYS`; None if they gain more, or no tile is pruned.

    points: predictions of these plans for other numbers of tokens.
    """
    assert task.outline is not None
    if not any(plan.zeroed for plan in plans.values()):
        return None
    gained = predict_whole(plans.values(), task.outline, costs).end_to_end
    if gained.by_tiles >= PAYS:
        return None
    speedup, weights = max(_unpruned(task, costs))
    if gained.by_types >= max(1.0, speedup / PAYS):
        speedup, weights = gained.by_types, None
    return LittleGain(
        by_tiles=gained.by_tiles,
        weights=weights,
        unpruned=speedup,
        tokens=next((point.tokens for point in points if point.by_tiles >= PAYS), None),
    )


def _unpruned(task: PlanTask, costs: CostModel) -> Iterator[tuple[float, str | None]]:
    """Yield the speed-up without pruned tiles with each type that all linears can have, and the type."""
    linears, outline = task.linears, task.outline
    assert outline is not None
    for name in task.types_of_lowering:
        if all(weight_type(name).fits(columns) for _, columns in linears.values()):
            typed = task.with_settings(weights=name, kinds=TWO_FOUR.name)
            plans = typed.plan_at(dict.fromkeys(linears, 0.0), costs)
            yield predict_whole(plans.values(), outline, costs).end_to_end.speedup, name
