"""Calibrated cards: results of `bench --calibrate` on a GPU, kept on this machine for later plans.

There is one file for each combination of GPU, clocks, driver and backend, in `~/.cache/patch-compile/measured`, or
below XDG_CACHE_HOME. A plan takes the newest file of exactly the GPU that it is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from masklearn.json_text import read_json
from patch_compile.cache_folder import cache_folder
from patch_compile.errors import PatchCompileError
from patch_compile.out.durable import write_json
from patch_compile.out.plan import Calibration
from patch_compile.out.workspace import key_of
from patch_compile.plan.roofline.assumptions import ASSUMED, Assumptions

__all__ = ["FITTED", "MOST", "MeasuredCard", "measured_cards", "measured_folder"]

MOST = 4.0  # bound of a fitted value over the assumed one, and of its inverse: no card is that far from its data sheet
FITTED = {
    "bandwidth": "share of the data sheet's bandwidth",
    "tensor": "tensor rate over that of the table of cards",
    "hybrid": "of these, what the hybrid kernels reach",
    "launch": "µs between kernels",
}
_SCHEMA = 2


class MeasuredCard(Calibration):
    """A calibration that plans on this machine use."""

    @property
    def assume(self) -> Assumptions:
        """Returns the assumptions with the fitted values."""
        return replace(ASSUMED, **self.assumptions)  # type: ignore[arg-type]  # `_check` has looked at their names

    def save(self, folder: Path | None = None) -> Path:
        """Write the calibration, in place of one of the same GPU, clocks, driver and backend.

        folder: None takes the one in which plans look for calibrations.
        """
        key = key_of(self.gpu, self.clocks, self.driver, self.backend, self.version)[:8]
        path = (folder or measured_folder()) / f"{re.sub(r'[^a-z0-9]+', '-', self.gpu.lower())}-{key}.json"
        write_json(path, {"schema": _SCHEMA, **self.model_dump(mode="json")})
        return path


def measured_folder() -> Path:
    """Returns the folder of calibrations."""
    return cache_folder("measured")


def measured_cards() -> Iterator[MeasuredCard]:
    """Yield the calibrations of this machine, the newest first. Raises PatchCompileError for an invalid file."""
    found = [_read(path) for path in sorted(measured_folder().glob("*.json"))]
    yield from sorted(found, key=lambda one: one.date, reverse=True)


def _read(path: Path) -> MeasuredCard:
    try:
        content: dict[str, Any] = read_json(path)
        if content.pop("schema") != _SCHEMA:
            raise ValueError("It was written by another version of patch-compile.")
        card = MeasuredCard(**content)
        _check(card)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise PatchCompileError(
            f"{path} is no calibration of a card",
            why,
            "Remove it and calibrate again: `patch-compile bench OUT --calibrate`.",
        ) from None
    return card


def _check(card: MeasuredCard) -> None:
    """Raises ValueError for unknown assumptions, and for values farther from the assumed ones than a card can be."""
    for name, value in card.assumptions.items():
        assumed = getattr(ASSUMED, name, None)
        if not isinstance(assumed, float) or not assumed / MOST <= value <= assumed * MOST:
            raise ValueError(f"{name} = {value} is not possible.")
