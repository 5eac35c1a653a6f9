"""Finds the card that predictions for a `--target` or a GPU are made for, and the assumptions that they use."""

from __future__ import annotations

from dataclasses import dataclass, replace

from patch_compile.artifacts.prediction import CardRow
from patch_compile.errors import PatchCompileError
from patch_compile.hardware.cards import (
    RatedCard,
    architecture_of_gpu,
    card_named,
    parse_targets,
    rated_cards,
)
from patch_compile.hardware.gpu import Gpu
from patch_compile.planning.measured import MeasuredCard, measured_cards
from patch_compile.planning.roofline.assumptions import ASSUMED, Assumptions

DEFAULT_TARGET = "sm86"  # used without a target and a GPU


@dataclass(frozen=True)
class PlanCard:
    """A card with a data sheet, which predictions are made for.

    stands_for, unpredicted: as in `CardRow`. assume: assumptions of the predictions. measured: the calibration of this very
    GPU, by `bench --calibrate` or from this package, which then gives the assumptions; None without a calibration.
    """

    rated: RatedCard
    stands_for: str = ""
    unpredicted: tuple[str, ...] = ()
    assume: Assumptions = ASSUMED
    measured: MeasuredCard | None = None

    @property
    def name(self) -> str:
        return self.rated.name

    def row(self) -> CardRow:
        return CardRow(
            name=self.name,
            stands_for=self.stands_for,
            unpredicted=self.unpredicted,
            calibration=self.measured,
        )

    def __str__(self) -> str:
        return str(self.row())


def find_card(target: str) -> PlanCard | None:
    """Returns the card of the first of comma-separated targets that has predictions, or None if no target has.

    A target without a data sheet (an architecture, or a card) is predicted by the first card of its architecture with a
    data sheet. Raises PatchCompileError for a target that is not in the table.
    """
    targets = parse_targets(target)
    cards = {
        target.name: PlanCard(target.card)
        if isinstance(target.card, RatedCard)
        else _of_architecture(target.architecture.sm, target.name)
        for target in targets
    }
    card = next(filter(None, cards.values()), None)
    if card and len(targets) > 1:
        missing = tuple(name for name, row in cards.items() if row is None)
        return PlanCard(card.rated, ", ".join(cards), missing)
    return _as_measured(card) if card else None


def card_of(target: str) -> PlanCard:
    """Returns the result of `find_card`. Raises PatchCompileError if it is None."""
    card = find_card(target)
    if card is None:
        raise PatchCompileError(
            f"No speed is predicted for the target {target!r}",
            "No card of its architecture has both a data sheet and rates of our kernels in the table of cards.",
            f"Give one of {', '.join(card.name for card in rated_cards())}.",
        )
    return card


def card_of_gpu(gpu: Gpu) -> PlanCard | None:
    """Returns the card of this machine's GPU, else the card that stands for its architecture.

    Returns None if neither has a data sheet.
    """
    named, architecture = card_named(gpu.name), architecture_of_gpu(gpu)
    if isinstance(named, RatedCard):
        return _as_measured(PlanCard(named), gpu.name)
    card = _of_architecture(architecture.sm, gpu.name) if architecture else None
    return _as_measured(card, gpu.name) if card else None


def _as_measured(card: PlanCard, gpu: str | None = None) -> PlanCard:
    """Returns the card, with its calibration if it has been calibrated.

    The newest calibration of this machine counts, else the calibration in this package: of the GPU named `gpu`, or if None
    of any GPU that the card's row describes.
    """

    for measured in measured_cards():
        of_gpu = measured.gpu == gpu if gpu else measured.own and not card.stands_for
        if measured.card == card.name and of_gpu:
            return replace(card, assume=measured.assume, measured=measured)
    return card


def _of_architecture(sm: int, name: str) -> PlanCard | None:
    return next((PlanCard(card, name) for card in rated_cards() if card.sm == sm), None)
