import pytest

from patch_compile.artifacts.engine import SparseTactics
from patch_compile.report.sparse_products import sparsity_words
from tests.artifacts.examples import engine_report


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ((196, 140), "chose 2:4 tactics for 140 of 196 eligible layers"),
        ((39, 0), "chose no 2:4 tactic for any of 39 eligible layers"),
        ((0, 0), "found no weight 2:4, so the 12 2:4 products of the graph run densely"),
        ((None, None), "logged nothing"),
        ((3, None), "is not known"),
        (None, "TensorRT-RTX has no 2:4 tactics of its own: the 12 2:4 products"),
    ],
)
def test_what_became_of_2_4_products(counts: tuple[int | None, int | None] | None, says: str) -> None:
    tactics = SparseTactics(eligible=counts[0], chosen=counts[1]) if counts else None
    assert says in sparsity_words(engine_report(sparse_parts=12, sparse_tactics=tactics))


def test_nothing_is_said_where_there_are_none() -> None:
    assert sparsity_words(engine_report(sparse_parts=0, sparse_tactics=None)) == ""
