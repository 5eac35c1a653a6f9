import re

from patch_compile.artifacts.plan import (
    LinearRow,
    Node,
    Reason,
    ReasonKind,
    Slabs,
    TileCount,
)
from patch_compile.report.prediction import reason_lines, reason_words


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


def test_every_reason_has_its_words():
    """Clauses, for a line goes on before and after them."""
    words = [reason_words(Reason(kind=kind)) for kind in ReasonKind]
    assert len(set(words)) == len(words)
    assert all(re.fullmatch(r"[a-z].{14,}[^.]", one) for one in words)
