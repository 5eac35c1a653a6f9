"""The card that a `--target` or a GPU is predicted by, and the assumptions that its times are made from."""

from __future__ import annotations

from dataclasses import dataclass, replace

from patch_compile.errors import PatchCompileError
from patch_compile.hardware.cards import (
    RatedCard,
    Target,
    architecture_of_gpu,
    card_named,
    parse_targets,
    rated_cards,
)
from patch_compile.hardware.gpu import Gpu
from patch_compile.out.plan import CardRow
from patch_compile.plan.measured import MeasuredCard, measured_cards
from patch_compile.plan.roofline.assumptions import ASSUMED, Assumptions

__all__ = ["DEFAULT_TARGET", "PlanCard", "card_of", "card_of_gpu", "find_card"]

DEFAULT_TARGET = "sm86"  # where neither a target nor a GPU is there


@dataclass(frozen=True)
class PlanCard:
    """A card with a data sheet, by which something is predicted. stands_for: the target that has none of its own, or "".

    assume: what its times are predicted by, beside its data sheet. measured: what `bench --calibrate` found on this very
    GPU, whose assumptions these are then; None where nothing was measured.
    """

    rated: RatedCard
    stands_for: str = ""
    assume: Assumptions = ASSUMED
    measured: MeasuredCard | None = None

    @property
    def name(self) -> str:
        """As the table spells it."""
        return self.rated.name

    def row(self) -> CardRow:
        """The card as plan.json has it."""
        return CardRow(name=self.name, stands_for=self.stands_for, calibration=self.measured)

    def __str__(self) -> str:
        return str(self.row())


def find_card(target: str) -> PlanCard | None:
    """The card of the first of comma-separated targets that is predicted; None when none is.

    A target without a data sheet, an architecture or another card of it, is predicted by the first card of its architecture
    that has one. Raises PatchCompileError for a target that is not in the table.
    """
    targets = parse_targets(target)
    card = next(filter(None, map(_of_target, targets)), None)
    if card and len(targets) > 1:
        return PlanCard(card.rated, ", ".join(one.name for one in targets))
    return _as_measured(card) if card else None


def card_of(target: str) -> PlanCard:
    """The card that `find_card` finds. Raises PatchCompileError where there is none."""
    card = find_card(target)
    if card is None:
        raise PatchCompileError(
            f"No speed is predicted for the target {target!r}",
            "The table of cards has no data sheet for it, nor for another card of its architecture.",
            f"Give one of {', '.join(card.name for card in rated_cards())} as --target.",
        )
    return card


def card_of_gpu(gpu: Gpu) -> PlanCard | None:
    """The card of this machine's GPU, or the one that stands for its architecture; None when neither has a data sheet."""
    named, architecture = card_named(gpu.name), architecture_of_gpu(gpu)
    if isinstance(named, RatedCard):
        return _as_measured(PlanCard(named), gpu.name)
    card = _of_architecture(architecture.sm, gpu.name) if architecture else None
    return _as_measured(card, gpu.name) if card else None


def _as_measured(card: PlanCard, gpu: str | None = None) -> PlanCard:
    """The card by the newest measurement of the very GPU: the one of this name, or whichever has this row for its own."""

    def fits(found: MeasuredCard) -> bool:
        return found.card == card.name and (found.gpu == gpu if gpu else found.own and not card.stands_for)

    found = next(filter(fits, measured_cards()), None)
    return replace(card, assume=found.assume, measured=found) if found else card


def _of_target(target: Target) -> PlanCard | None:
    if isinstance(target.card, RatedCard):
        return PlanCard(target.card)
    return _of_architecture(target.architecture.sm, target.name)


def _of_architecture(sm: int, name: str) -> PlanCard | None:
    return next((PlanCard(card, name) for card in rated_cards() if card.sm == sm), None)
