import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from masklearn.masks.record import KindShares, TileShares, summarise_tiles


def maps(layers: int, **share_of_kind: float) -> dict[str, np.ndarray]:
    """Maps of 100 tiles: `share` of a kind are sparse in the first layer, none in the last, linear between."""
    names = {}
    for i in range(layers):
        for kind, share in share_of_kind.items():
            tiles = np.zeros(100, np.bool_)
            tiles[: round(100 * share * (layers - 1 - i) / max(layers - 1, 1))] = True
            names[f"model.layers.{i}.{kind}"] = tiles.reshape(10, 10)
    return names


def test_shares_by_kind_and_depth() -> None:
    summary = summarise_tiles(maps(3, up_proj=1.0, v_proj=0.0))
    assert summary.model_dump(mode="json") == {
        "blocks": [[0, 0], [1, 1], [2, 2]],
        "kinds": [
            {"kind": "up_proj", "name": "model.layers.*.up_proj", "share": 0.5, "by_depth": [1.0, 0.5, 0.0]},
            {"kind": "v_proj", "name": "model.layers.*.v_proj", "share": 0.0, "by_depth": [0.0, 0.0, 0.0]},
        ],
        "all": {"share": 0.25, "by_depth": [0.5, 0.25, 0.0]},
    }


@given(st.integers(1, 60), st.integers(1, 12))
def test_every_block_is_in_one_column(layers: int, buckets: int) -> None:
    blocks = summarise_tiles(maps(layers, q=0.5), buckets).blocks
    assert len(blocks) == min(layers, buckets)
    assert [i for first, last in blocks for i in range(first, last + 1)] == list(range(layers))
    sizes = [last - first for first, last in blocks]
    assert max(sizes) - min(sizes) <= 1


def test_gaps_and_linears_outside_the_blocks() -> None:
    """Only some blocks have the kind, and the head is in none."""
    tiles = maps(2, q=1.0) | {"model.layers.1.k": np.ones((2, 2), bool), "lm_head": np.eye(2, dtype=bool)}
    rows = {row.kind: row for row in summarise_tiles(tiles).kinds}
    assert rows["k"].by_depth == (None, 1.0)
    assert rows["lm_head"] == KindShares(kind="lm_head", name="lm_head", share=0.5, by_depth=(None, None))
    assert summarise_tiles({"lm_head": np.eye(2, dtype=bool)}).blocks == ()
    assert summarise_tiles({}).all == TileShares(share=None, by_depth=())


def test_experts_are_one_kind() -> None:
    tiles = {f"l.{i}.experts.{j}.w1": np.full((1, 1), j < 2) for i in range(2) for j in range(4)}
    (row,) = summarise_tiles(tiles).kinds
    assert (row.name, row.share, row.by_depth) == ("l.*.experts.*.w1", 0.5, (0.5, 0.5))
