import re

import pytest

from masklearn.masks.record import SpeedRecord
from patch_compile.artifacts.plan import (
    CardRow,
    LinearRow,
    Node,
    PhaseRow,
    PlanSummary,
    Reason,
    ReasonKind,
    Slabs,
    Slower,
    TileCount,
    Totals,
    Unpredicted,
    Way,
    WholeRow,
    Workload,
)
from patch_compile.report.prediction import choice_line, node_words, reason_lines, reason_words, speed_line

TOTALS = Totals(bytes_before=2, bytes_after=1)


def row(block: int, kind: str, lowering: str, reason: ReasonKind | None) -> LinearRow:
    name = f"model.layers.{block}.{kind}"
    return LinearRow(
        name=name,
        shape=(128, 128),
        zeroed=0,
        tiles=TileCount(sparse=0, all=1),
        lowering=lowering,
        reason=Reason(kind=reason) if reason else None,
        node=None if reason else Node(name=name, linears=(name,)),
        panel_rows=128,
        slabs=Slabs(dense=2, sparse=0),
        bytes_before=2,
        bytes_after=1,
        predicted=None,
        split=None,
    )


def test_reasons_are_counted_by_kind():
    rows = [row(i, "self_attn.v_proj", "dense", ReasonKind.NO_SPARSE_TILE) for i in range(3)]
    rows += [row(i, "mlp.up_proj", "dense", ReasonKind.NO_SPARSE_TILE) for i in range(2)]
    rows += [row(2, "mlp.up_proj", "split", ReasonKind.ASKED), row(0, "mlp.down_proj", "plugin", None)]
    assert list(reason_lines(rows)) == [
        "dense: v_proj ×3, up_proj ×2: none of its tiles is pruned",
        "split: up_proj ×1: asked for by --lowering",
    ]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ({"kind": "not-covered"}, "it is not covered"),
        ({"kind": "asked"}, "asked for by --lowering"),
        ({"kind": "no-sparse-tile"}, "none of its tiles is pruned"),
        (
            {"kind": "small-tiles", "tile": (128, 4)},
            "no 64-wide slab lies in 2:4 tiles alone: tiles of 128x4 are too small",
        ),
        (
            {"kind": "small-linear", "card": "A6000"},
            "it is too small: on A6000 even all 2:4 it is predicted no faster than dense",
        ),
        (
            {"kind": "little-sparse", "card": "A6000"},
            "too little of it is 2:4: on A6000 hybrid is predicted no faster than dense",
        ),
        (
            {"kind": "prompts", "card": "H100", "slower": Slower(way=Way.DENSE_PATH, speedup=0.987)},
            "its prompts outweigh its decode steps, and on H100 the dense path reaches 0.99 of dense in prefill",
        ),
        (
            {"kind": "prompts", "card": "H100", "slower": Slower(way=Way.MMA_SP, speedup=0.6)},
            "its prompts outweigh its decode steps, and on H100 mma.sp reaches 0.60 of wgmma in prefill",
        ),
        (
            {"kind": "dense-product", "card": "A6000", "product": ("q_proj", "v_proj")},
            "on A6000 it is predicted faster in one dense product with q_proj, v_proj",
        ),
    ],
)
def test_every_reason_in_words(reason, words):
    assert reason_words(Reason.model_validate(reason)) == words


def test_every_kind_of_reason_has_words_of_its_own():
    """Clauses, for a line goes on before and after them."""
    words = [reason_words(Reason(kind=kind)) for kind in ReasonKind]
    assert len(set(words)) == len(words)
    assert all(re.fullmatch(r"[a-z].{14,}[^.]", one) for one in words)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"name": "m.down", "linears": ("m.down",)}, ""),
        ({"name": "m.down", "linears": ("m.down",), "residual": True}, "residual"),
        (
            {"name": "m.fc1", "linears": ("m.fc1",), "activation": "gelu_tanh", "residual": True},
            "GELU (tanh) + residual",
        ),
        (
            {"name": "m.gate+up", "linears": ("m.gate", "m.up"), "activation": "silu", "gated": True},
            "SiLU·mul with up",
        ),
        ({"name": "l.0.a.q+k+v", "linears": ("l.0.a.q", "l.0.a.k", "l.0.a.v")}, "one product of q+k+v"),
    ],
)
def test_what_a_node_does_in_words(node, words):
    node = Node.model_validate(node)
    assert node_words(node, node.linears[0]) == words
    if node.gated:
        assert node_words(node, "m.up") == "SiLU·mul with gate"


def test_a_speed_is_beside_its_limit():
    phase = PhaseRow(dense_ms=130.0, planned_ms=100.0, speedup=1.3, limit=1.5)
    plan = PlanSummary(
        whole=WholeRow(prefill=phase, decode=phase, end_to_end=phase),
        card=CardRow(name="A6000"),
        workload=Workload(batch=1, prompt=8, generated=1),
        totals=TOTALS,
    )
    assert speed_line(plan) == (
        "predicted speed-up on A6000, batch 1, 8 tokens: end to end 1.30 (limit 1.50), prefill 1.30 (limit 1.50), "
        "decode 1.30 (limit 1.50)"
    )
    assert speed_line(PlanSummary(totals=TOTALS, unpredicted=Unpredicted.NO_CARD)) == ""


def test_the_gap_to_the_linear_program_is_said():
    speed = SpeedRecord(
        goal="a speed-up of 1.3", card="A6000", saved_us=120.0, tiles=7, cost=10.05, bound=10.0, gap=0.005
    )
    line = choice_line(speed)
    assert line.startswith("tiles chosen for a speed-up of 1.3 on A6000: 7 that lose 10.05")
    assert line.endswith("less than 10 (the linear program), a gap of 0.50%")
    typed = choice_line(speed.model_copy(update={"rounding": 0.5}))
    assert typed.startswith(
        "weight types chosen for a speed-up of 1.3 on A6000: rounding to them loses 0.5 in"
    )
    assert typed.endswith(line)
    unpruned = choice_line(speed.model_copy(update={"rounding": 0.5, "tiles": 0}))
    assert unpruned.endswith("; no tile is pruned")
    assert choice_line(None) == ""
