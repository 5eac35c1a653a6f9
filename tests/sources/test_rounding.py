"""The tolerance of rounding is derived from the number of roundings, or measured where a graph amplifies them."""

import pytest

from patch_compile.artifacts.proof import ToleranceOrigin
from patch_compile.sources.rounding import Rounding, tolerance_of


def test_tolerance_grows_with_roundings_and_type() -> None:
    few, many = (tolerance_of("float16", Rounding(count)).share for count in (10, 40))
    assert many == pytest.approx(2 * few)
    assert tolerance_of("bfloat16", Rounding(10)).share == pytest.approx(8 * few)
    assert few == pytest.approx(3 * 2.0**-11 * 10**0.5)


def test_what_was_measured_counts_where_it_is_more() -> None:
    by = ToleranceOrigin.ROUNDED_LINEARS
    derived = tolerance_of("float16", Rounding(10, measured=1e-6, by=by))
    assert (derived.origin, derived.roundings) == (ToleranceOrigin.ROUNDINGS, 10)
    measured = tolerance_of("float16", Rounding(10, measured=2 * derived.share, by=by))
    assert (measured.share, measured.origin) == (2 * derived.share, by)
