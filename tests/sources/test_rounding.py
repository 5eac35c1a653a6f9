"""The tolerance of rounding is derived from the number of roundings, or measured where a graph amplifies them."""

import pytest

from patch_compile.sources.rounding import Rounding, rounding_tolerance, roundings_of, tolerance_of


def test_the_tolerance_grows_with_the_root_of_the_roundings_and_with_the_type() -> None:
    few, many = (tolerance_of("float16", Rounding(count, ""))[0] for count in (10, 40))
    assert many == pytest.approx(2 * few)
    assert tolerance_of("bfloat16", Rounding(10, ""))[0] == pytest.approx(8 * few)
    assert few == pytest.approx(3 * 2.0**-11 * 10**0.5)


def test_what_was_measured_counts_where_it_is_more() -> None:
    derived, why = tolerance_of("float16", Rounding(10, "10 roundings", measured=1e-6, why="tried"))
    assert why.endswith("n = 10 roundings")
    assert tolerance_of("float16", Rounding(10, "10 roundings", 2 * derived, "tried")) == (
        2 * derived,
        "tried",
    )


def test_a_transformer_is_judged_by_its_blocks() -> None:
    assert rounding_tolerance("float16", 2) == tolerance_of("float16", roundings_of(2))
    assert "32 roundings in 2 layers" in rounding_tolerance("float16", 2)[1]
