"""Fitting finds the assumptions that produced the times, and refuses times that no card produces."""

from dataclasses import replace

import pytest

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from patch_compile.artifacts.prediction import Workload
from patch_compile.planning.cards import card_of
from patch_compile.planning.cost import CostModel
from patch_compile.planning.measured_fit import fit_assumptions
from patch_compile.planning.outline import outline_of
from patch_compile.planning.planner import plan_assumed
from patch_compile.planning.roofline.assumptions import ASSUMED
from patch_compile.timing.points import grid_of
from patch_compile.timing.predicted import PlannedModel
from tests.planning.llama import LLAMA_2_7B, write_hollow_llama
from tests.refusals import refused

ALL = grid_of((1, 16), (128, 1024), (128, 1024))
SMALL = {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, "num_key_value_heads": 16}


@pytest.fixture(scope="module")
def predict_of(tmp_path_factory):
    """predict_of(points, **config) predicts two blocks, dense and hybrid at ratio 0.4, on an A6000."""

    def of(points=ALL, **config):
        folder = tmp_path_factory.mktemp("fit") / "llama"
        checkpoint = Checkpoint.open(
            write_hollow_llama(folder, LLAMA_2_7B | {"num_hidden_layers": 2} | config)
        )
        coverage, card = covered_linears_of(checkpoint), card_of("a6000")
        plans = plan_assumed(
            coverage.linears,
            (128, 128),
            dict.fromkeys(coverage.linears, 0.4),
            "plugin",
            CostModel(card, Workload(batch=1, prompt=1, generated=1)),
        )
        model = PlannedModel(tuple(plans.values()), outline_of(checkpoint, coverage)).evened()

        def predict(assume):
            phases = [model.at(point, replace(card, assume=assume)) for point in points]
            return [time for phase in phases for time in (phase.dense_ms, phase.planned_ms)]

        return predict

    return of


def test_the_assumptions_that_made_the_times_are_found(predict_of):
    predict = predict_of(**SMALL)
    true = replace(ASSUMED, bandwidth=0.7, tensor=0.6, hybrid=0.9, launch=3.0)
    fit = fit_assumptions(predict(true), predict)
    for name in ("bandwidth", "tensor", "hybrid", "launch"):
        assert fit.fitted[name] == pytest.approx(getattr(true, name), rel=0.03), name
    assert fit.after < 0.005 < 0.1 < fit.before and fit.left == {}


def test_undetermined_assumptions_are_named(predict_of):
    decode = grid_of((1, 4), (), (128, 1024))
    predict = predict_of(decode)
    fit = fit_assumptions(predict(replace(ASSUMED, bandwidth=0.7)), predict)
    assert fit.fitted["bandwidth"] == pytest.approx(0.7, rel=0.02)
    assert fit.left["tensor"] == "these times hardly depend on it" and fit.assume.tensor == ASSUMED.tensor


def test_measured_clocks_are_not_fitted(predict_of):
    predict = predict_of()
    fit = fit_assumptions(predict(replace(ASSUMED, clock=0.8)), predict, clock=0.8)
    assert fit.fitted["clock"] == fit.assume.clock == 0.8
    assert fit.fitted["tensor"] == pytest.approx(ASSUMED.tensor, rel=0.01) and fit.before < 0.001


def test_equivalent_assumptions_are_not_separated():
    def predict(assume):
        return [1 / (assume.bandwidth * assume.tensor), 2 / (assume.bandwidth * assume.tensor)]

    fit = fit_assumptions([2.0, 4.0], predict)
    assert (
        list(fit.fitted) == ["bandwidth"]
        and fit.left["tensor"] == "these times do not tell it from bandwidth"
    )


@pytest.mark.parametrize("times", [
    [1.0],
    [1.0, 0.0],
    pytest.param([1.0, float("nan")], id="nan")
])  # fmt: skip
def test_times_that_are_none_are_refused(times):
    with refused():
        fit_assumptions(times, lambda assume: [1 / assume.bandwidth] * len(times))


@pytest.mark.parametrize("factor", [4.5, 1 / 4.5])
def test_a_card_that_can_not_be_is_refused(predict_of, factor):
    predict = predict_of()
    with refused():
        fit_assumptions([factor * time for time in predict(ASSUMED)], predict)


def test_times_that_tell_nothing_are_refused():
    with refused():
        fit_assumptions([1.0, 1.0], lambda _assume: [1.0, 1.0])
