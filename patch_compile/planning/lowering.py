"""Chooses the lowering of each linear, with the reason if it is not `plugin`.

`--lowering` is `auto`, `plugin`, `split` or `dense`, or `PATTERN=LOWERING,…` such as `mlp.*=plugin,v_proj=dense`
(`masklearn.masks.name_globs`). Linears that no pattern fits are `auto`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from masklearn.masks.kinds.base import BYTES_DENSE, TileKind
from masklearn.masks.kinds.table import DENSE, PRUNED, TWO_FOUR
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import grids_of
from masklearn.masks.name_globs import decide, parse_values
from masklearn.quant.grid import Grid
from masklearn.quant.table import FLOAT16, WeightType, weight_type
from patch_compile.artifacts.plan import (
    LinearRow,
    LinearTimes,
    Lowering,
    Node,
    Reason,
    ReasonKind,
    Slabs,
    TileCount,
)
from patch_compile.errors import PatchCompileError
from patch_compile.packing.format import choose_panel_rows, panel_heights
from patch_compile.packing.slab_kinds import SLAB_K, joint_codes, kinds_among, slab_kinds
from patch_compile.planning.cost import CostModel
from patch_compile.planning.tile_map import TileKinds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Shape = tuple[int, int]
Asked = Literal["auto", "plugin", "split", "dense"]
AUTO: Asked = "auto"


class LinearPlan(LinearRow):
    """The row of a linear while it is planned.

    Until the graph is known, the node of a `plugin` linear has its linear's name and no other linear. A linear of quantised
    weights is `split` if that is asked for, else `plugin`, because no other lowering keeps such weights packed; if `dense`
    is asked for, or is faster, or none of its slabs is pruned, all of its slabs are dense.

    apart: True for a gate and its up that are predicted to be faster in a node each, although they could share one.
    gated_codes: kinds of its slabs, a byte each, in panels that it shares with its gate or up, by the rows that they may
    have, the most first.
    """

    apart: bool = False
    gated_codes: Mapping[int, bytes] = {}

    @property
    def gated(self) -> bool:
        """True for a gate and its up in one node, once the graph is known."""
        return self.node is not None and self.node.gated

    @property
    def rows_of_panels(self) -> int:
        """Rows of a panel of its node, of which `panel_rows` are its own."""
        return self.panel_rows * (1 + self.gated)

    @property
    def weight_type(self) -> WeightType:
        return weight_type(self.weights)

    @property
    def uses_zeros(self) -> bool:
        """True if zeroed weights save time or bytes in this lowering."""
        return self.lowering == "split" or (self.lowering == "plugin" and self.slabs.any_pruned)

    @property
    def wastes_zeros(self) -> bool:
        """True if it has zeroed weights that save nothing in this lowering."""
        return self.zeroed > 0 and not self.uses_zeros

    @property
    def products(self) -> float:
        """Multiplications for each row of X, by their time in units of a dense weight's: a 2:4 weight counts half."""
        spared = sum(count * (1.0 - kind.products()) for kind, count in self._pruned.items())
        return self.shape[0] * self.shape[1] - spared

    @property
    def least_bytes(self) -> float:
        """Returns the bytes of its tiles, each in its kind, without padding and index. No kernel can read fewer."""
        dense = self.shape[0] * self.shape[1] - sum(self._pruned.values())
        return sum(
            kind.bytes_of(self.weight_type) * count for kind, count in ({DENSE: dense} | self._pruned).items()
        )

    @property
    def _pruned(self) -> dict[TileKind, float]:
        """Numbers of weights in 2:4 tiles, and in slabs of other kinds, with the padding."""
        others = {
            PRUNED[kind]: float(count * self.panel_rows * SLAB_K) for kind, count in self.slabs.others.items()
        }
        zeroed_elsewhere = sum(kind.zeros * count for kind, count in others.items())
        return {TWO_FOUR: max(0.0, 2 * (self.zeroed - zeroed_elsewhere))} | others

    def changed(self, **fields: Any) -> LinearPlan:
        """Returns the plan with other values of some fields, and the node and the bytes that follow."""
        plan = self.model_copy(update=fields)
        node = (plan.node or _alone(plan.name)) if plan.lowering == "plugin" else None
        plan = plan.model_copy(update={"node": node})
        return plan.model_copy(update={"bytes_after": plan._bytes_after()})

    def _bytes_after(self) -> int:
        """Returns the bytes of the constants that the compiled linear reads, with padding and index."""
        if self.lowering == "split":
            return int(
                self.shape[0] * (self.shape[1] * self.weight_type.bits // 8 + self.weight_type.row_bytes)
            )
        if self.node is None:
            return self.bytes_before
        slab, stored = self.panel_rows * SLAB_K, self.slabs.by_kind
        panels = -(-self.shape[0] // self.panel_rows)
        # A row of pointers for each kind, with an end, which the linears of a node share, and a column for each slab.
        first = self.node.linears[0] == self.name
        pointers = 0 if self.gated and not first else len(stored) * (panels + first) + sum(stored.values())
        packed = sum(
            int(count * slab * PRUNED.get(kind, DENSE).bytes_of(self.weight_type))
            for kind, count in stored.items()
        )
        scales = self.weight_type.row_bytes * panels * self.panel_rows
        return packed + scales + 4 * pointers

    def in_16_bits(self) -> LinearPlan:
        """Returns the plan of the linear of the original model, as far as its dense GEMM needs it."""
        if not self.weight_type.quantised:
            return self
        return self.all_dense().model_copy(update={"weights": FLOAT16.name})

    def heights_with(self, other: LinearPlan) -> list[int]:
        """Returns the rows that panels of a gate and its up may have, the most first. A node has the most."""
        return [rows for rows in self.gated_codes if rows in other.gated_codes]

    def all_dense(self) -> LinearPlan:
        """Returns the plan with as many slabs, all dense. Its times stay as they are."""
        codes = {rows: bytes([DENSE.code]) * len(own) for rows, own in self.gated_codes.items()}
        return self.model_copy(update={"slabs": self.slabs.all_dense, "gated_codes": codes})

    def named(self, name: str) -> LinearPlan:
        """Returns the plan of another linear with the same lowering, before the graph is known."""
        return self.model_copy(update={"name": name, "node": self.node and _alone(name)})

    def fused(self, masks: Sequence[LinearMask], node: Node, panel_rows: int | None = None) -> LinearPlan:
        """Returns the plan with the node that the graph gave it.

        masks: its own, or those of a gate and its up, whose slabs are joint; panel_rows: of its own, None keeps them.
        """
        rows = panel_rows or self.panel_rows
        slabs = _counted(joint_codes([slab_kinds(mask, rows) for mask in masks]))
        if self.weight_type.quantised and not self.uses_zeros:
            slabs = slabs.all_dense
        return self.changed(node=node, panel_rows=rows, slabs=slabs)


def parse_lowering(text: str) -> str:
    """Returns the text if it is valid. Raises ValueError with a one-line message if it is not."""
    _decisions(text)
    return text


def asked_lowerings(text: str, names: Sequence[str]) -> dict[str, Asked]:
    """Returns the requested lowering of each linear.

    Raises PatchCompileError for a pattern that matches no linear, or that later patterns override everywhere.
    """
    decided = decide(_decisions(text), names, "--lowering")
    return {name: AUTO if decision is None else decision[1] for name, decision in decided.items()}


def _decisions(text: str) -> list[tuple[str, Asked]]:
    return parse_values(text, _asked, "lowering")


def _asked(spelled: str) -> Asked:
    if spelled in get_args(Asked):
        return cast("Asked", spelled)
    raise ValueError(f"{spelled!r} is not a lowering. The lowerings are {', '.join(get_args(Asked))}.")


def plan_linears(
    masks: Mapping[str, LinearMask] | Mapping[str, TileKinds],
    lowering: str = "plugin",
    costs: CostModel | None = None,
    weights: Mapping[str, WeightType] | None = None,
) -> dict[str, LinearPlan]:
    """Returns the plan of every covered linear, in the order of the masks.

    lowering: a value of `--lowering`; costs: predictions that `auto` needs, None if the card is unknown; weights: types of
    the linears' weights, None for 16 bits. Raises PatchCompileError as `lowerings_of` does.
    """
    types, grids = weights or {}, grids_of(masks)
    asked = lowerings_of(lowering, list(masks), types)
    alike: dict[tuple[object, ...], LinearPlan] = {}  # many linears of a model have equal maps of tiles

    def planned(name: str, mask: LinearMask | TileKinds) -> LinearPlan:
        own = types.get(name, FLOAT16)
        if isinstance(mask, LinearMask):
            return plan_linear(name, mask, asked[name], costs, own, grids.get(name))
        key = mask.shape, mask.tile, mask.kinds.tobytes(), asked[name], own
        if key not in alike:
            alike[key] = plan_linear(name, mask, asked[name], costs, own)
        return alike[key].named(name)

    return {name: planned(name, mask) for name, mask in masks.items()}


def lowerings_of(text: str, names: Sequence[str], weights: Mapping[str, WeightType]) -> dict[str, Asked]:
    """Returns the requested lowering of each linear. text: a value of `--lowering`.

    Raises PatchCompileError for a pattern that matches no linear, and if weights are to be split that only the plugin takes.
    """
    asked = asked_lowerings(text, names)
    for name, own in weights.items():
        if own.widened and asked.get(name) == "split":
            raise PatchCompileError(
                f"{name} has {own} weights and can't be lowered as split",
                "A split linear is ordinary GEMMs, whose weights have 16 bits or are multiplied by int8 activations.",
                f"Give {name.rpartition('.')[2]}=plugin behind a comma of --lowering, or another --weights.",
            )
    return asked


def with_static_scales(text: str, names: Sequence[str], weights: Mapping[str, WeightType]) -> list[str]:
    """Returns the linears whose activations need static scales: type w8a8, lowered as `split`.

    text: a value of `--lowering`; names: of all covered linears; weights: types of the quantised linears.
    """
    asked = asked_lowerings(text, names)
    return [name for name, own in weights.items() if own.input_bits == 8 and asked[name] == "split"]


def plan_linear(
    name: str,
    mask: LinearMask | TileKinds,
    asked: Asked = "plugin",
    costs: CostModel | None = None,
    weights: WeightType = FLOAT16,
    grid: Grid | None = None,
) -> LinearPlan:
    """Returns the plan of a linear with the lowering that is asked for, or `dense` if none of its slabs is pruned.

    `auto` is `plugin` if that is predicted to be faster than `dense`, and without predictions. A linear of quantised
    weights that would be `dense` is `plugin` with dense slabs, or `split` if that is asked for. grid: of quantised weights,
    None before they are learned.
    """
    panel_rows = choose_panel_rows(mask.shape, mask.tile, mask.by_kind(), weights)
    slabs = _counted(slab_kinds(mask, panel_rows))

    def times() -> LinearTimes | None:
        return costs.of(mask.shape, panel_rows, slabs.by_kind, weights=weights) if costs else None

    predicted = times()
    chosen, reason = _choose(asked, _unfit(asked, mask, slabs.any_pruned), costs, predicted)
    if weights.quantised and chosen == "dense":
        chosen, slabs = "split" if asked == "split" else "plugin", slabs.all_dense
        predicted = times()
    split = None
    if chosen == "split":
        from patch_compile.planning.split import SplitCost, plan_split, usable

        two_four = usable(mask.kinds == TWO_FOUR.code, grid)
        split = plan_split(two_four, mask.shape, mask.tile, SplitCost.of(weights)).row()
        predicted = costs.of_split([(mask.shape, split)], weights) if costs else None
    tiles = TileCount(sparse=int((mask.kinds != DENSE.code).sum()), all=mask.kinds.size)
    heights = panel_heights(mask.shape, mask.tile, mask.by_kind(), weights, gated=True)
    plan = _new_plan(
        name,
        mask.shape,
        chosen,
        reason,
        predicted=predicted,
        weights=weights.name,
        split=split,
        zeroed=mask.zeroed,
        tiles=tiles,
        panel_rows=panel_rows,
        slabs=slabs,
        gated_codes={rows: slab_kinds(mask, rows // 2).tobytes() for rows in heights},
    )
    return plan if slabs.any_pruned else plan.all_dense()


def uncovered(name: str, shape: Shape) -> LinearPlan:
    """Returns the plan of a linear without a mask, which stays as it is."""
    rows = choose_panel_rows(shape, shape)
    slabs = Slabs(dense=-(-shape[0] // rows) * -(-shape[1] // SLAB_K), sparse=0)
    tiles, reason = TileCount(sparse=0, all=1), Reason(kind=ReasonKind.NOT_COVERED)
    empty = {"zeroed": 0, "predicted": None, "split": None}
    return _new_plan(name, shape, "dense", reason, tiles=tiles, panel_rows=rows, slabs=slabs, **empty)


def _new_plan(
    name: str, shape: Shape, lowering: Lowering, reason: Reason | None, **fields: Any
) -> LinearPlan:
    """Returns a plan before the graph is known. fields: the other fields of the plan, but for its node and bytes."""
    nbytes = int(shape[0] * shape[1] * BYTES_DENSE)
    plan = LinearPlan(
        name=name,
        shape=shape,
        lowering=lowering,
        reason=reason,
        node=_alone(name) if lowering == "plugin" else None,
        bytes_before=nbytes,
        bytes_after=nbytes,
        **fields,
    )
    return plan.changed()


def _alone(name: str) -> Node:
    """Returns the node of a linear on its own, before the graph is known."""
    return Node(name=name, linears=(name,))


def _choose(
    asked: Asked, unfit: Reason | None, costs: CostModel | None, predicted: LinearTimes | None
) -> tuple[Lowering, Reason | None]:
    """Returns the lowering, and the reason if it is not `plugin`. unfit: reason why only `dense` is possible."""
    if asked == "dense":
        return asked, Reason(kind=ReasonKind.ASKED)
    slower = costs.why_dense(predicted) if asked == "auto" and costs and predicted else None
    if unfit:
        # Learning leaves a linear dense if it would not gain even with all tiles 2:4. Then that is the reason.
        whole = unfit.kind is ReasonKind.NO_SPARSE_TILE
        never = whole and slower is not None and slower.kind is not ReasonKind.LITTLE_SPARSE
        return "dense", slower if never else unfit
    if asked == "split":
        return asked, Reason(kind=ReasonKind.ASKED)
    return ("dense", slower) if slower else ("plugin", None)


def joint_slabs(pair: Sequence[LinearPlan]) -> Slabs:
    """Returns the slabs of a gate and its up in one node: dense where the kinds of the two differ."""
    rows = pair[0].heights_with(pair[1])[0]
    return _joint_slabs(pair[0].gated_codes[rows], pair[1].gated_codes[rows])


@lru_cache(maxsize=256)
def _joint_slabs(gate: bytes, up: bytes) -> Slabs:
    import numpy as np

    return _counted(joint_codes([np.frombuffer(codes, np.uint8) for codes in (gate, up)]))


def _counted(codes: NDArray[np.uint8]) -> Slabs:
    dense, sparse, *others = ((kind.name, int((codes == kind.code).sum())) for kind in kinds_among([codes]))
    return Slabs(dense=dense[1], sparse=sparse[1], others=dict(others))


def _unfit(asked: Asked, mask: LinearMask | TileKinds, any_pruned_slab: bool) -> Reason | None:
    """Returns the reason why only `dense` is possible, or None."""
    if not mask.kinds.any():
        return Reason(kind=ReasonKind.NO_SPARSE_TILE)
    if not any_pruned_slab and asked in ("auto", "plugin"):  # the other lowerings have no slabs
        return Reason(kind=ReasonKind.SMALL_TILES, tile=mask.tile)
    return None
