"""Why linears are not packed, in words."""

from patch_compile.artifacts.plan import LinearRow, Reason, ReasonKind
from patch_compile.report.prediction import reason_lines
from tests.artifacts.examples import linear_row


def not_packed(block: int, kind: str, lowering: str, reason: ReasonKind) -> LinearRow:
    return linear_row(
        f"model.layers.{block}.{kind}", lowering=lowering, reason=Reason(kind=reason), node=None
    )


def test_reasons_are_counted_by_kind():
    rows = [not_packed(i, "self_attn.v_proj", "dense", ReasonKind.NO_SPARSE_TILE) for i in range(3)]
    rows += [not_packed(i, "mlp.up_proj", "dense", ReasonKind.NO_SPARSE_TILE) for i in range(2)]
    rows += [
        not_packed(2, "mlp.up_proj", "split", ReasonKind.ASKED),
        linear_row("model.layers.0.mlp.down_proj"),
    ]
    assert list(reason_lines(rows)) == [
        "dense: v_proj ×3, up_proj ×2: none of its tiles is pruned",
        "split: up_proj ×1: asked for by --lowering",
    ]
