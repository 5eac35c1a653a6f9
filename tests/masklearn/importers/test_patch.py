import numpy as np
import pytest
import torch

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.naming import to_stored
from tests.masklearn.edits import edited_weights
from tests.masklearn.importers import sources
from tests.masklearn.importers.conftest import Model, assert_same
from tests.refusals import refused


@pytest.mark.parametrize("tile", [(4, 4), (8, 16), (16, 8), (16, 16), (32, 32)])
def test_written_masks_come_back_with_tile_size(dense: Model, tmp_path, tile) -> None:
    expected = sources.mosaics(dense.coverage, tile)
    source = sources.write_npz(tmp_path / "mask.npz", sources.patch_members(dense.nonzero(expected)))
    masks = dense.import_from(source)
    assert_same(masks, expected)
    assert "format: patch (an archive that holds __meta__)" in dense.notes
    assert f"tile: {tile[0]}x{tile[1]} (the largest that loses no 2:4 area)" in dense.notes
    assert masks.record.imported.meta == {"pattern": "Dense/2:4 tiles"}


def test_zeros_of_the_model_itself_are_no_violation(make_dense, tmp_path) -> None:
    """Published masks are `weight != 0`, so some groups keep three weights, one or none."""
    dense = make_dense()
    rng = np.random.default_rng(3)
    with edited_weights(dense.checkpoint.path) as tensors:
        for name, shape in dense.coverage.linears.items():
            tensors[f"{name}.weight"][torch.from_numpy(rng.random(shape) < 0.03)] = 0.0
    dense = Model(Checkpoint.open(dense.checkpoint.path), dense.coverage)
    expected = sources.mosaics(dense.coverage, (16, 16))
    source = sources.write_npz(tmp_path / "mask.npz", sources.patch_members(dense.nonzero(expected)))
    masks = dense.import_from(source)
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask.tiles, expected[name].tiles)
        weight = dense.checkpoint.read(f"{name}.weight")
        np.testing.assert_array_equal(weight * mask.keep(), weight * expected[name].keep())
    assert not any(line.startswith("kept:") for line in dense.notes)


def test_a_uniform_mask_by_its_pattern(dense: Model, tmp_path) -> None:
    expected = sources.uniform(dense.coverage)
    keeps = {name: mask.keep() for name, mask in expected.items()}
    members = sources.patch_members(keeps, {"pattern": "2:4", "base_model": "someone/model"})
    masks = dense.import_from(sources.write_npz(tmp_path / "mask.npz", members))
    assert_same(masks, expected)
    assert masks.record.imported.meta["base_model"] == "someone/model"
    keeps["model.layers.0.mlp.up_proj"][2, 4:8] = True
    members = sources.patch_members(keeps, {"pattern": "2:4"})
    with refused():
        dense.import_from(sources.write_npz(tmp_path / "bad.npz", members))


def test_a_group_that_breaks_2_4_is_named(dense: Model, tmp_path) -> None:
    expected = sources.mosaics(dense.coverage, (16, 16))
    keeps = dense.nonzero(expected)
    name = "model.layers.2.self_attn.q_proj"
    assert expected[name].tiles[0, 0]
    keeps[name][5, 8:12] = [True, True, False, True]
    source = sources.write_npz(tmp_path / "mask.npz", sources.patch_members(keeps))
    with refused():
        dense.import_from(source)
    with refused():
        dense.import_from(source, tile=(16, 16))


def test_a_tile_that_does_not_fit_is_refused(dense: Model, tmp_path) -> None:
    expected = sources.mosaics(dense.coverage, (16, 16))
    source = sources.write_npz(tmp_path / "mask.npz", sources.patch_members(dense.nonzero(expected)))
    with refused():
        dense.import_from(source, tile=(32, 32))
    finer = dense.import_from(source, tile=(8, 8))
    assert finer.ratio == pytest.approx(dense.import_from(source).ratio)


def test_another_base_model(dense: Model, make_dense, tmp_path) -> None:
    """Another model has other zeros, so it has weights that the mask zeroes in dense tiles."""
    expected = sources.mosaics(dense.coverage, (16, 16))
    keeps = dense.nonzero(expected)
    for name, mask in expected.items():
        keep = mask.keep()
        keeps[name] &= ~(keep & (np.random.default_rng(0).random(keep.shape) < 0.02))
    with refused():
        dense.import_from(sources.write_npz(tmp_path / "mask.npz", sources.patch_members(keeps)))


def changed(members, key, data):
    return members | {key: data} if data is not None else {k: v for k, v in members.items() if k != key}


NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("key", "data"),
    [
        pytest.param(f"{NAME}.__shape__", None, id="gives no shape for"),
        pytest.param(f"{NAME}.__shape__", sources.npy("<i8", (2,), bytes(16)), id="is [0, 0]"),
        pytest.param(f"{NAME}.__shape__", sources.npy("<f8", (2,), bytes(16)), id="is [0.0, 0.0]"),
        pytest.param(NAME, sources.npy("|u1", (431,), bytes(431)), id="72x48 weights take 432 bytes"),
        pytest.param("__meta__", sources.npy("<U2", (), "{]".encode("utf-32-le")), id="__meta__ in"),
        pytest.param("__meta__", sources.npy("<U2", (), "[]".encode("utf-32-le")), id="is not a JSON object"),
    ],
)
def test_damaged_archives(dense: Model, tmp_path, key: str, data: bytes | None) -> None:
    members = sources.patch_members(dense.nonzero(sources.mosaics(dense.coverage, (16, 16))))
    source = sources.write_npz(tmp_path / "mask.npz", changed(members, key, data))
    with refused():
        dense.import_from(source)


def test_meta_may_be_missing_or_bytes(dense: Model, tmp_path) -> None:
    expected = sources.mosaics(dense.coverage, (16, 16))
    members = sources.patch_members(dense.nonzero(expected))
    for i, data in enumerate((None, sources.npy("|u1", (2,), b"{}"))):
        source = sources.write_npz(tmp_path / f"{i}.npz", changed(members, "__meta__", data))
        assert_same(dense.import_from(source), expected)


def test_weights_that_are_stored_transposed(make_dense, tmp_path) -> None:
    """A Conv1D's mask has its weight's layout, [K, N]; 2:4 holds along K."""
    dense = make_dense("gpt2")
    checkpoint = dense.checkpoint
    expected = sources.mosaics(dense.coverage, (16, 16))
    keeps = {name: to_stored(checkpoint, f"{name}.weight", mask.keep()) for name, mask in expected.items()}
    assert all(keeps[name].shape == shape[::-1] for name, shape in dense.coverage.linears.items())
    members = sources.patch_members(keeps)
    assert_same(dense.import_from(sources.write_npz(tmp_path / "mask.npz", members)), expected)
