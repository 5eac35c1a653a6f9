import pytest

from masklearn.methods.gradient.parametrization import PRIOR_LOGIT
from masklearn.methods.gradient.settings import Span
from masklearn.methods.maskllm import MaskLlm
from masklearn.methods.patch_joint import PatchJoint
from masklearn.methods.patch_tile import PatchTile

JOINT, TILE, MASKLLM = PatchJoint.settings, PatchTile.settings, MaskLlm.settings


def test_schedules_begin_and_end_where_the_papers_do() -> None:
    assert (JOINT.tile_scale.at(0.0), JOINT.tile_scale.at(1.0)) == (25.0, 350.0)
    assert (JOINT.pattern_scale.at(0.0), JOINT.pattern_scale.at(1.0)) == (100.0, 500.0)
    assert (TILE.tile_scale.at(0.0), TILE.tile_scale.at(1.0)) == (100.0, 500.0)
    assert (MASKLLM.temperature.at(0.0), MASKLLM.temperature.at(1.0)) == (4.0, 0.05)


@pytest.mark.parametrize("ratio, first", [(0.5, 4.0), (0.45, 4.0), (0.449, 2.0), (0.25, 2.0)])
def test_temperature_starts_lower_below_45(ratio: float, first: float) -> None:
    span = JOINT.temperature_for(ratio)
    assert (span.at(0.0), span.at(1.0)) == (first, 0.05)
    assert TILE.temperature_for(ratio) == Span(2.0, 0.05)


def test_half_way_is_half_way_and_nothing_leaves_the_span() -> None:
    span = Span(25.0, 350.0)
    assert span.at(0.5) == 187.5
    assert (span.at(-0.1), span.at(1.7)) == (25.0, 350.0)


def test_tile_logits_can_cross_from_one_prior_value_to_the_other() -> None:
    """Adam moves a logit by up to rate·steps/2 under cosine decay; at 2000 steps the rates equal the papers'."""
    assert (JOINT.tile_rate(2000), TILE.tile_rate(2000)) == (1e-3, 1e-4)
    for steps in (1, 10, 200, 1000):
        assert TILE.tile_rate(steps) * steps / 2 == pytest.approx(0.1)
        assert JOINT.tile_rate(steps) * steps / 2 >= 2 * PRIOR_LOGIT
