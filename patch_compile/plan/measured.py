"""Cards as they were measured: what `bench --calibrate` found on a GPU, kept on this machine for later plans.

A file for each GPU, its clocks, driver and backend lies in `~/.cache/patch-compile/measured`, or below XDG_CACHE_HOME. A
plan takes the newest one of the very GPU that it is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from patch_compile.cache_folder import cache_folder
from patch_compile.errors import PatchCompileError
from patch_compile.out.workspace import key_of, write_json
from patch_compile.plan.roofline.assumptions import ASSUMED, Assumptions

__all__ = ["FITTED", "MOST", "MeasuredCard", "measured_cards", "measured_folder"]

MOST = 4.0  # times what is assumed, or a fourth of it: no card is that far from its data sheet
FITTED = {
    "bandwidth": "share of the data sheet's bandwidth",
    "tensor": "share of the tensor cores' rate",
    "hybrid": "of these, what the hybrid kernels reach",
    "launch": "µs between kernels",
}
_SCHEMA = 1


class MeasuredCard(BaseModel):
    """A calibration: the assumptions of the roofline under which it best predicts the times that were measured.

    gpu: its name; card: the row of the table of devices; own: the row is this GPU's own, not one that stands for it.
    clocks: medians in MHz, None where they were not recorded. assumptions: those of `Assumptions` that are not as assumed.
    left: those that these times do not tell, and why. times: how many; error: median share by which predictions miss them,
    before and after.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpu: str
    card: str
    own: bool
    clocks: dict[str, float] | None
    driver: str | None
    backend: str
    version: str
    date: str
    model: str
    assumptions: dict[str, float]
    left: dict[str, str]
    times: int = Field(ge=2)
    error: dict[str, float]

    def __hash__(self) -> int:  # of dicts there is none; plans are cached by their card
        return hash(self.model_dump_json())

    @property
    def assume(self) -> Assumptions:
        """What to predict by."""
        return replace(ASSUMED, **self.assumptions)  # type: ignore[arg-type]  # `_check` has looked at their names

    def __str__(self) -> str:
        return f"calibrated by times measured on {self.gpu} on {self.date[:10]}"

    @property
    def words(self) -> str:
        """What was measured, and what it changed."""
        clock = f"SM clock {self.clocks['sm_mhz']:g} MHz" if self.clocks else "clocks not recorded"
        found = (
            f"{name} {self.assumptions[name]:.2f} instead of {getattr(ASSUMED, name):.2f} ({what})"
            for name, what in FITTED.items()
            if name in self.assumptions
        )
        return (
            f"predictions of a roofline (docs/performance.md) whose assumptions were fitted to {self.times} times of "
            f"{self.model}, measured on {self.gpu} ({clock}, driver {self.driver or 'unknown'}, {self.backend} "
            f"{self.version}) on {self.date[:10]}: {', '.join(found)}; it misses these times by "
            f"{self.error['after']:.0%} (median), and missed them by {self.error['before']:.0%}"
        )

    def save(self) -> Path:
        """Write it, in place of one of the same GPU, clocks, driver and backend."""
        key = key_of(self.gpu, self.clocks, self.driver, self.backend, self.version)[:8]
        path = measured_folder() / f"{re.sub(r'[^a-z0-9]+', '-', self.gpu.lower())}-{key}.json"
        write_json(path, {"schema": _SCHEMA, **self.model_dump(mode="json")})
        return path


def measured_folder() -> Path:
    """Where calibrations lie."""
    return cache_folder("measured")


def measured_cards() -> Iterator[MeasuredCard]:
    """Those of this machine, the newest first. Raises PatchCompileError for a file that is none."""
    found = [_read(path) for path in sorted(measured_folder().glob("*.json"))]
    yield from sorted(found, key=lambda one: one.date, reverse=True)


def _read(path: Path) -> MeasuredCard:
    import json

    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("schema") != _SCHEMA:
            raise ValueError("it was written by another version of patch-compile")
        card = MeasuredCard(**content)
        _check(card)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise PatchCompileError(
            f"{path} is no calibration of a card",
            why,
            "remove it, and calibrate again: patch-compile bench --calibrate",
        ) from None
    return card


def _check(card: MeasuredCard) -> None:
    """Assumptions that there are, each no further from what is assumed than a card can be."""
    for name, value in card.assumptions.items():
        assumed = getattr(ASSUMED, name, None)
        if not isinstance(assumed, float) or not assumed / MOST <= value <= assumed * MOST:
            raise ValueError(f"{name} = {value} is not possible")
