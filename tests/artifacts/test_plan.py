"""plan.json: typed, and of one version."""

import json

import pytest
from pydantic import ValidationError

from patch_compile.artifacts.plan import LinearRow, Plan, PlanSummary, Unpredicted
from patch_compile.artifacts.prediction import CardRow, Workload

ROW = {
    "name": "l.0.up",
    "shape": [256, 128],
    "zeroed": 8192,
    "tiles": {"sparse": 1, "all": 2},
    "lowering": "plugin",
    "reason": None,
    "node": {"name": "l.0.gate+up", "linears": ["l.0.gate", "l.0.up"], "activation": "silu", "gated": True},
    "panel_rows": 64,
    "slabs": {"dense": 4, "sparse": 4},
    "bytes_before": 65536,
    "bytes_after": 51200,
    "predicted": None,
    "split": None,
}
PLAN = {
    "card": None,
    "workload": None,
    "totals": {"bytes_before": 65536, "bytes_after": 51200},
    "whole": None,
    "unpredicted": "no-card",
    "linears": [ROW],
}


@pytest.fixture
def path(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({"schema": Plan.SCHEMA, **PLAN}))
    return tmp_path / "plan.json"


def test_what_is_written_is_read_again(path, tmp_path):
    plan = Plan.of(tmp_path)
    assert plan == Plan.read(path) and plan.unpredicted is Unpredicted.NO_CARD
    assert plan.linears[0].node.linears == ("l.0.gate", "l.0.up")
    assert (plan.packed, plan.saved_bytes) == (["l.0.up"], 14336)
    assert plan.summary == PlanSummary.model_validate({k: v for k, v in PLAN.items() if k != "linears"})
    plan.write(tmp_path / "again.json")
    assert Plan.read(tmp_path / "again.json") == plan
    assert json.loads((tmp_path / "again.json").read_text())["schema"] == Plan.SCHEMA


@pytest.mark.parametrize(
    "changed",
    [
        {"node": None},
        {"reason": {"kind": "asked"}},
        {"lowering": "dense"},
        {"lowering": "other"},
        {"reason": {"kind": "unheard-of"}, "lowering": "dense", "node": None},
        {"epilogue": "SiLU·mul"},
    ],
)
def test_linears_have_a_node_or_reason(changed):
    LinearRow.model_validate(ROW)
    with pytest.raises(ValidationError):
        LinearRow.model_validate(ROW | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"card": CardRow(name="A6000")},
        {"workload": Workload(batch=1, prompt=1, generated=1)},
        {"unpredicted": None},
    ],
)
def test_times_need_card_and_workload(changed):
    with pytest.raises(ValidationError):
        PlanSummary.model_validate({k: v for k, v in PLAN.items() if k != "linears"} | changed)
