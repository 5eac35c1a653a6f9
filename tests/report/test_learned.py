"""Scores of methods in words."""

import pytest

from masklearn.traits import Criterion
from patch_compile.report.learned import score_words


@pytest.mark.parametrize("criterion", list(Criterion))
def test_every_score_has_plain_words(criterion: Criterion) -> None:
    words = score_words(f"{criterion.unit}, per zeroed weight")
    assert words.endswith(", for each weight that is zeroed")
    assert criterion.unit not in words and "order" not in words and "Σ" not in words


def test_a_unit_of_an_unknown_method_is_kept() -> None:
    assert score_words("grains, per zeroed weight") == "grains, per zeroed weight"
