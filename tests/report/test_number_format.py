import math

import pytest

from patch_compile.report.number_format import (
    bytes_of,
    change,
    joined,
    number,
    percent,
    perplexity,
    seconds,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"),
        (0.0031, "0.00310"),
        (3.1e-8, "3.10 × 10⁻⁸"),
        (-0.0124, "−0.0124"),
        (12.34, "12.3"),
        (1234.5, "1,234"),
        (2.5e6, "2.50 × 10⁶"),
        (math.inf, "not finite"),
        (None, "–"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_shares_and_changes() -> None:
    assert (percent(0.4), percent(0.4, 1), percent(1.0), percent(0.0)) == ("40%", "40.0%", "100%", "0%")
    assert percent(0.0004) == "0.040%"  # a small share is not 0%
    assert (change(22.19, 15.68), change(138, 212), change(15.7, 15.68)) == ("+42%", "−35%", "+0.1%")
    assert change(1.0, 1.0) == "±0%"
    assert change(math.inf, 1.0) == change(1.0, 0.0) == "–"


def test_what_is_counted() -> None:
    assert (bytes_of(999), bytes_of(138e6), bytes_of(13.5e9)) == ("999 bytes", "138 MB", "13.5 GB")
    assert (perplexity(22.187), perplexity(1861.2)) == ("22.19", "1,861")
    assert (seconds(1.2), seconds(31.4), seconds(412.7), seconds(7265)) == (
        "1.2 s",
        "31 s",
        "6 min 53 s",
        "2 h 1 min",
    )
    assert (joined(["a"]), joined(["a", "b"]), joined(["a", "b", "c"])) == ("a", "a and b", "a, b and c")
