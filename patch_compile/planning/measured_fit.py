"""Fits the roofline's assumptions to times that were measured on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from patch_compile.errors import PatchCompileError
from patch_compile.planning.measured import FITTED, MOST
from patch_compile.planning.roofline.assumptions import ASSUMED, Assumptions

Predict = Callable[[Assumptions], Sequence[float]]
_LEAST_EFFECT = 0.05  # smallest relative change of a time, for twice the assumption, that is not noise
_LEAST_ANGLE = 0.05  # smallest sine of the angle between the effects of one assumption and of the others
_STEP = 0.02  # step of a logarithm: the roofline has corners, which a smaller step would miss


@dataclass(frozen=True)
class Fit:
    """A fit. assume: the fitted assumptions; fitted: fitted values by name; left: the others, with the reason.

    before, after: median relative error of the predictions, with the assumed and with the fitted values.
    """

    assume: Assumptions
    fitted: dict[str, float]
    left: dict[str, str]
    before: float
    after: float


def fit_assumptions(times: Sequence[float], predict: Predict, clock: float | None = None) -> Fit:
    """Fit the assumptions in `FITTED`: minimise the sum of squared logarithms of predicted over measured time.

    times: measured milliseconds; predict: returns the same times under given assumptions; clock: sustained over boost
    clock, which is measured and not fitted. Each assumption stays between a fourth of and four times its assumed value.
    An assumption keeps that value if these times do not determine it, or do not distinguish it from the others.

    Raises PatchCompileError for fewer than two times, for an invalid time, and if the best fit lies at the bounds.
    """
    from scipy.optimize import least_squares

    measured = _checked(times)
    start = ASSUMED if clock is None else replace(ASSUMED, clock=clock)
    logs = np.log(measured)

    def misses(factors: NDArray[np.float64], names: Sequence[str]) -> NDArray[np.float64]:
        predicted = np.asarray(predict(_scaled(start, names, factors)), np.float64)
        return np.asarray(np.log(predicted) - logs, np.float64)

    names, left = _identifiable(misses, len(measured))
    if not names:
        raise PatchCompileError(
            "The measured times do not determine any property of the card",
            f"No value can be fitted for {', '.join(f'{name} ({why})' for name, why in left.items())}.",
            "Time larger batches and longer prompts, or a larger model.",
        )
    bound = np.log(MOST)
    fit = least_squares(
        misses, np.zeros(len(names)), bounds=(-bound, bound), diff_step=_STEP, x_scale=1.0, args=(names,)
    )
    _check_bounds(names, fit.x, start)
    assume = _scaled(start, names, fit.x)
    values = {name: float(getattr(assume, name)) for name in names}
    before, after = (
        float(np.median(np.abs(np.expm1(misses(np.array(x), n))))) for x, n in (([], []), (fit.x, names))
    )
    return Fit(assume, values | ({} if clock is None else {"clock": clock}), left, before, after)


def _checked(times: Sequence[float]) -> NDArray[np.float64]:
    measured = np.asarray(times, np.float64)
    if len(measured) < 2:
        raise PatchCompileError(
            "One measured time is not enough for a calibration",
            "Bandwidth and tensor rate show in different times.",
            "Time several batches, prompts and decode steps, dense and hybrid.",
        )
    if not np.isfinite(measured).all() or measured.min() <= 0:
        raise PatchCompileError(
            "A measured time is not above 0", f"The times are {list(times)}.", "Time again."
        )
    return measured


def _scaled(start: Assumptions, names: Sequence[str], factors: NDArray[np.float64]) -> Assumptions:
    values = {n: float(getattr(start, n) * np.exp(f)) for n, f in zip(names, factors, strict=True)}
    return replace(start, **values)  # type: ignore[arg-type]  # `values` holds only fields that are numbers


def _identifiable(
    misses: Callable[[NDArray[np.float64], Sequence[str]], NDArray[np.float64]], count: int
) -> tuple[list[str], dict[str, str]]:
    """Returns the assumptions that these times determine, in the order of `FITTED`, and the others with the reason."""
    base = misses(np.zeros(0), [])
    chosen: list[str] = []
    columns: list[NDArray[np.float64]] = []
    left: dict[str, str] = {}
    for name in FITTED:
        effect = (misses(np.array([_STEP]), [name]) - base) / _STEP
        if np.abs(effect).max() < _LEAST_EFFECT:
            left[name] = "these times hardly depend on it"
        elif len(chosen) == count:
            left[name] = "there are no more times than assumptions"
        elif _sine(effect, columns) < _LEAST_ANGLE:
            left[name] = f"these times do not tell it from {' and '.join(chosen)}"
        else:
            chosen.append(name)
            columns.append(effect)
    return chosen, left


def _sine(effect: NDArray[np.float64], columns: list[NDArray[np.float64]]) -> float:
    """Returns the sine of the angle between an effect and the span of the other effects."""
    if not columns:
        return 1.0
    others = np.stack(columns, axis=1)
    rest = effect - others @ np.linalg.lstsq(others, effect, rcond=None)[0]
    return float(np.linalg.norm(rest) / np.linalg.norm(effect))


def _check_bounds(names: Sequence[str], factors: NDArray[np.float64], start: Assumptions) -> None:
    for name, factor in zip(names, np.exp(factors), strict=True):
        if not 1.02 / MOST < factor < 0.98 * MOST:
            raise PatchCompileError(
                f"The measured times fit no {name} that a card can have",
                f"The fitted {FITTED[name]} would be {getattr(start, name) * factor:.3g}, {MOST:g} or more times off the "
                f"assumed {getattr(start, name):g}.",
                "Check that nothing else runs on the GPU and that its clocks are not held down, and time again.",
            )
