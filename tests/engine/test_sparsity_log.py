"""Lines as TensorRT writes them. TensorRT has not been run here."""

import pytest

from patch_compile.artifacts.engine import SparseTactics
from patch_compile.engine.sparsity_log import is_about_sparsity, sparse_tactics

FOUND = "(Sparsity) Found 196 layer(s) eligible to use sparse tactics: /model/layers.0/q_proj/MatMul, /lm_head/MatMul"
CHOSE = "(Sparsity) Chose 140 layer(s) using sparse tactics: /model/layers.0/q_proj/MatMul"
ELIGIBLE_8 = "(Sparsity) Layers eligible for sparse math: MatMul_401, Conv_619 + Relu_620, Conv_626"
PICKED_8 = "(Sparsity) TRT inference plan picked sparse implementation for layers:"


def tactics(eligible: int | None, chosen: int | None) -> SparseTactics:
    return SparseTactics(eligible=eligible, chosen=chosen)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([FOUND, CHOSE], (196, 140)),
        ([FOUND.partition(":")[0], "(Sparsity) Chose 0 layer(s) using sparse tactics"], (196, 0)),
        ([ELIGIBLE_8, PICKED_8], (3, 0)),
        ([ELIGIBLE_8, f"{PICKED_8} Conv_619 + Relu_620, Conv_626"], (3, 2)),
        (["(Sparsity) Layers eligible for sparse math:", PICKED_8], (0, 0)),
        ([f"[11/25/2026-10:00:00] [I] [TRT] {FOUND}", f"[V] [TRT] {CHOSE}\n"], (196, 140)),
        ([FOUND], (196, None)),
        ([], (None, None)),
    ],
)  # fmt: skip
def test_counts(lines, expected):
    assert sparse_tactics(lines) == tactics(*expected)


def test_the_last_selection_of_tactics_is_the_one_that_is_written():
    first = [line.replace("196", "7").replace("140", "5") for line in (FOUND, CHOSE)]
    assert sparse_tactics([*first, FOUND, CHOSE]) == tactics(196, 140)


def test_other_lines_are_none_of_its_business():
    other = "Total Activation Memory: 7864832"
    assert is_about_sparsity(FOUND) and not is_about_sparsity(other)
    assert sparse_tactics([FOUND, other, CHOSE]) == tactics(196, 140)
