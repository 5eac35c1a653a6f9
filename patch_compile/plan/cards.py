"""Which card of the roofline's table a `--target` is predicted for, and by which measurement."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from patch_compile.errors import PatchCompileError
from patch_compile.hardware.cards import DEVICES, Device
from patch_compile.hardware.gpu import Gpu
from patch_compile.hardware.targets import parse_targets
from patch_compile.out.plan import PlannedCard
from patch_compile.plan.measured import MeasuredCard, measured_cards
from patch_compile.plan.roofline.assumptions import ASSUMED, Assumptions

__all__ = ["DEFAULT_TARGET", "Card", "card_of", "card_of_gpu", "find_card"]

DEFAULT_TARGET = "sm86"  # where neither a target nor a GPU is there

_BRANDS = re.compile(r"^(?:nvidia|geforce|tesla|quadro|rtx)+")


@dataclass(frozen=True)
class Card:
    """A row of the table of devices. stands_for: the target that has no row of its own, empty when it has one.

    assume: what its times are predicted by, beside its data sheet. measured: what `bench --calibrate` found on this very
    GPU, whose assumptions these are then; None where nothing was measured.
    """

    device: Device
    stands_for: str = ""
    assume: Assumptions = ASSUMED
    measured: MeasuredCard | None = None

    @property
    def name(self) -> str:
        """As the table spells it."""
        return self.device.name

    def row(self) -> PlannedCard:
        """The card as plan.json has it."""
        return PlannedCard(name=self.name, stands_for=self.stands_for, calibration=self.measured)

    def __str__(self) -> str:
        return str(self.row())


def find_card(target: str) -> Card | None:
    """The card of the first of comma-separated targets that has one; None when none has.

    A target without a row, an architecture or another card of it, is predicted for the first card of its architecture in
    the table. Raises PatchCompileError, listing the table, for a target that is neither in it nor known to a build.
    """
    names = [name.strip() for name in target.split(",") if name.strip()]
    card = next(
        filter(None, [_card(name) for name in names]), None
    )  # all are looked up, so that no mistake is lost
    if card and len(names) > 1:
        return Card(card.device, ", ".join(names))
    return _as_measured(card) if card else None


def card_of(target: str) -> Card:
    """The same; raises PatchCompileError where there is none."""
    card = find_card(target)
    if card is None:
        raise _not_in_table(target)
    return card


def card_of_gpu(gpu: Gpu) -> Card | None:
    """The card of this machine's GPU, or the one that stands for its architecture; None when neither is in the table."""
    card = _named(gpu.name) or _of_architecture(gpu.compute_capability, gpu.name)
    return _as_measured(card, gpu.name) if card else None


def _as_measured(card: Card, gpu: str | None = None) -> Card:
    """As the newest measurement of the very GPU has it: the one of this name, or whichever has this row for its own."""

    def fits(found: MeasuredCard) -> bool:
        return found.card == card.name and (found.gpu == gpu if gpu else found.own and not card.stands_for)

    found = next(filter(fits, measured_cards()), None)
    return replace(card, assume=found.assume, measured=found) if found else card


def _card(name: str) -> Card | None:
    named = _named(name)
    if named:
        return named
    try:
        (target,) = parse_targets(name)
    except PatchCompileError:
        raise _not_in_table(name) from None
    return _of_architecture(target.compute_capability, name)


def _named(name: str) -> Card | None:
    found = (device for device in DEVICES.values() if _plain(device.name) == _plain(name))
    return next(map(Card, found), None)


def _of_architecture(capability: tuple[int, int], name: str) -> Card | None:
    arch = 10 * capability[0] + capability[1]
    return next((Card(device, name) for device in DEVICES.values() if device.arch == arch), None)


def _plain(name: str) -> str:
    return _BRANDS.sub("", re.sub(r"[\s_.-]", "", name.lower()))


def _not_in_table(name: str) -> PatchCompileError:
    archs = dict.fromkeys(f"sm{device.arch}" for device in DEVICES.values())
    return PatchCompileError(
        f"the table of devices has no card for the target {name!r}",
        f"it holds {', '.join(DEVICES)}; an architecture ({', '.join(archs)}) is predicted for its first card there",
        "give one of these as --target",
    )
