"""Calibrated cards: results of `bench --calibrate` on a GPU, kept on this machine for later plans, and cards that come with
this package.

Each combination of GPU, clocks, driver and backend has one file, in `~/.cache/patch-compile/measured`, or
below XDG_CACHE_HOME. A plan takes the newest file of exactly the GPU that it is for. Without a file it takes the
calibration of that GPU that comes with this package: `benchmarks/kernels/fit.py --keep` writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from masklearn.base.safe_read import json_object, read_json
from patch_compile.artifacts.prediction import Calibration
from patch_compile.artifacts.record import write_json
from patch_compile.artifacts.workspace import key_of
from patch_compile.cache_folder import cache_folder
from patch_compile.errors import reading
from patch_compile.planning.roofline.assumptions import ASSUMED, Assumptions

MOST = 4.0  # bound of a fitted value over the assumed value, and of its inverse: no card is that far from its data sheet
FITTED = {
    "bandwidth": "share of the data sheet's bandwidth",
    "tensor": "tensor rate over the rate in the table of cards",
    "hybrid": "of these, what the hybrid kernels reach",
    "launch": "µs between kernels",
}
_SCHEMA = 2


class MeasuredCard(Calibration):
    """A calibration that plans use."""

    @property
    def assume(self) -> Assumptions:
        return replace(ASSUMED, **self.assumptions)  # type: ignore[arg-type]  # `_check` has looked at their names

    def save(self) -> Path:
        """Write the calibration to where plans look for it, in place of an earlier calibration of the same GPU, clocks,
        driver and backend."""
        key = key_of(self.gpu, self.clocks, self.driver, self.backend, self.version)[:8]
        return self._write(measured_folder() / f"{file_stem(self.gpu)}-{key}.json")

    def ship(self, stem: str) -> Path:
        """Write the calibration into this package, in place of a calibration of the same name."""
        shipped = self.model_copy(update={"shipped": True})
        return shipped._write(shipped_folder() / f"{stem}.json")

    def _write(self, path: Path) -> Path:
        write_json(path, {"schema": _SCHEMA, **self.model_dump(mode="json")})
        return path


def file_stem(name: str) -> str:
    """Returns the name of a GPU or a card as files have it: `nvidia-rtx-a6000`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def measured_folder() -> Path:
    return cache_folder("measured")


def shipped_folder() -> Path:
    return Path(__file__).with_name("shipped")


def measured_cards() -> Iterator[MeasuredCard]:
    """Yield the calibrations of this machine, the newest first, and then the calibrations of this package.

    Raises PatchCompileError for an invalid file.
    """
    for folder in (measured_folder(), shipped_folder()):
        cards = [_read(path) for path in sorted(folder.glob("*.json"))]
        yield from sorted(cards, key=lambda card: card.date, reverse=True)


def _read(path: Path) -> MeasuredCard:
    fix = "Remove it and calibrate again: `patch-compile bench OUT --calibrate`."
    with reading(path, fix, what="is not a calibration of a card"):
        content = json_object(read_json(path))
        if content.pop("schema") != _SCHEMA:
            raise ValueError("It was written by another version of patch-compile.")
        card = MeasuredCard(**content)
        _check(card)
        return card


def _check(card: MeasuredCard) -> None:
    """Raises ValueError for unknown assumptions, and for values farther from the assumed values than a card can be."""
    for name, value in card.assumptions.items():
        assumed = getattr(ASSUMED, name, None)
        if not isinstance(assumed, float) or not assumed / MOST <= value <= assumed * MOST:
            raise ValueError(f"{name} = {value} is not possible.")
