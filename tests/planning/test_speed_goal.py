import pytest

from patch_compile.artifacts.prediction import PhaseRow
from patch_compile.planning.speed_goal import SpeedGoal, ratio_for
from tests.artifacts.examples import phase_row
from tests.refusals import refused


def kernel_that_starts_to_pay_at(ratio, best=60.0):
    """Times of a hybrid model that falls from 110 ms at ratio 0 to `best` at 0.5, but at most the dense model's 100 ms."""

    def predict(at: float) -> PhaseRow:
        assert 0 <= at <= 0.5
        hybrid = 110 - (110 - best) * at / 0.5
        return phase_row(100.0, hybrid if at >= ratio else 100.0, 1 / (1 - at))

    return predict


@pytest.mark.parametrize(
    ("goal", "ratio"),
    [
        (SpeedGoal(speedup=1.25), 0.3),
        (SpeedGoal(budget_ms=80), 0.3),
        (SpeedGoal(budget_ms=79.95), 0.301),
        (SpeedGoal(budget_ms=60), 0.5),
        (SpeedGoal(budget_ms=100), 0.0),
    ],
)
def test_the_least_ratio_to_a_thousandth(goal, ratio):
    predict = kernel_that_starts_to_pay_at(0.1)
    found = ratio_for(goal, predict)
    assert found == pytest.approx(ratio) and goal.met(predict(found))
    assert found == 0 or not goal.met(predict(found - 0.001))


def test_out_of_reach_says_what_the_best_is():
    with refused():
        ratio_for(SpeedGoal(budget_ms=59), kernel_that_starts_to_pay_at(0.1))


def test_a_goal_that_dense_linears_meet_prunes_nothing():
    def slower_when_pruned(at: float) -> PhaseRow:
        return phase_row(100.0, 130.0 - 40 * at if at else 100.0, 2.0)

    assert ratio_for(SpeedGoal(budget_ms=105), slower_when_pruned) == 0.0
