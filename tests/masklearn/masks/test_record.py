"""The record in a mask file of how its masks were made."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masklearn.base.shard import Shard, write_shard
from masklearn.masks.linear_mask import LinearMask
from masklearn.masks.maskset import MaskSet
from masklearn.masks.record import (
    ChoiceRecord,
    KindShares,
    TileShares,
    summarise_tiles,
)
from tests.refusals import refused

# Metadata of files: false settings are left out, and facts of an import are fields like the rest.
LEARNED = {
    "choice": {
        "asked": 0.4, "bound": 1.0, "kinds": {"2:4": 0.8, "dense": 0.2}, "loss": 2.0, "per_layer": False, "reached": 0.4,
        "types": {"float16": 1.0}, "unit": "ratio",
    },
    "repair": {
        "batch": 2, "error_first": 0.5, "error_last": 0.25, "learning_rate": 3e-4, "method": "distill",
        "optimizer": "adamw", "precision": "fp32", "steps": 40, "tokens": 2560,
    },
    "skipped": {"lm_head": "excluded"},
    "text": {
        "length": 16, "name": "a.txt", "seed": 0, "sha256": "ab", "source": "file", "tokens": 64, "windows": 4,
    },
    "train": {
        "first": {"lm": 1.0}, "kept": "prior", "kl": {"prior": 0.1}, "last": {"lm": 0.5}, "prior": "oneshot", "steps": 3,
        "tokens": 96,
    },
    "weights": "5af5",
}  # fmt: skip
IMPORTED = {
    "format": "patch", "ignored": [], "meta": {"repo": "x"}, "sha256": "ab", "skipped": {}, "source": "mask.npz",
    "unmasked": ["l"], "zeros": 7,
}  # fmt: skip
SAVING = {
    "choice": {"asked": 2.5, "reached": 2.6, "unit": "µs"},
    "permuted": {"channels": 8, "dense_error": 1e-6, "parts": 1},
}
ONNX = {
    "choice": {"asked": 1.0, "reached": 1.0, "unit": "µs"},
    "criterion": "relative",
    "inputs": "calib.npz",
    "skipped": {},
}


def file_with(path: Path, stored: Any) -> Path:
    """Write a mask file with a record in its metadata."""
    mask = LinearMask((8, 8), (8, 8), np.zeros((1, 1), np.bool_), np.zeros(0, np.uint8))
    MaskSet({"l": mask}, method="m", seed=0, base_model="b", base_sha256="0", ratio_asked=0.0).save(path)
    shard = Shard.open(path)
    arrays = {name: shard.read(name) for name in shard.tensors}
    specs = {name: ("U8", array.shape) for name, array in arrays.items()}
    write_shard(
        path, specs, arrays.__getitem__, {**shard.metadata, "extra": json.dumps(stored, sort_keys=True)}
    )
    return path


@pytest.mark.parametrize("stored", [LEARNED, IMPORTED, SAVING, ONNX, {}])
def test_files_stay_as_they_are(tmp_path: Path, stored: dict[str, Any]) -> None:
    path = file_with(tmp_path / "masks.safetensors", stored)
    before = path.read_bytes()
    masks = MaskSet.load(path)
    assert masks.record.as_metadata() == stored
    masks.save(path)
    assert path.read_bytes() == before


def test_figures_of_a_choice_have_six_digits() -> None:
    loss = 0.1 + 0.2
    records = [
        ChoiceRecord(unit="ratio", asked=0.4, reached=1 / 3, loss=one, bound=one)
        for one in (loss, np.nextafter(loss, 1))
    ]
    assert records[0] == records[1] and (records[0].loss, records[0].reached) == (0.3, 0.333333)


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(LEARNED | {"mood": "good"}, id="mood"),
        pytest.param(LEARNED | {"choice": {"asked": 0.4, "reached": 0.4}}, id="choice.unit"),
        pytest.param(IMPORTED | {"zeros": "many"}, id="imported.zeros"),
        pytest.param(LEARNED | {"text": LEARNED["text"] | {"source": "tale"}}, id="text.source"),  # type: ignore[operator]
    ],
)
def test_a_broken_record_is_one_error(tmp_path: Path, stored: dict[str, Any]) -> None:
    path = file_with(tmp_path / "masks.safetensors", stored)
    with refused():
        MaskSet.load(path)


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


@given(st.integers(1, 60))
def test_every_block_is_in_one_column(layers: int) -> None:
    blocks = summarise_tiles(maps(layers, q=0.5)).blocks
    assert len(blocks) == min(layers, 10)
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
