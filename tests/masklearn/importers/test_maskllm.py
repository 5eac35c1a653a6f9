import numpy as np
import pytest

from masklearn.masks.maskset import MaskSet
from tests.masklearn.importers import sources
from tests.masklearn.importers.conftest import Model, assert_same
from tests.refusals import refused


def test_what_was_written_comes_back(dense: Model, tmp_path) -> None:
    expected = sources.uniform(dense.coverage)
    keeps = {name: mask.keep() for name, mask in expected.items()}
    source = sources.write_npz(tmp_path / "mask_compressed.npz", sources.maskllm_members(keeps))
    masks = dense.import_from(source)
    assert_same(masks, expected)
    assert (masks.method, masks.ratio, masks.ratio_asked) == ("import:maskllm", 0.5, 0.5)
    assert dense.notes[0] == "format: maskllm (an archive of bits without shapes)"
    masks.save(tmp_path / "masks.safetensors")
    loaded = MaskSet.load(tmp_path / "masks.safetensors")
    assert loaded.record.imported.source == "mask_compressed.npz"
    assert loaded.record.imported.zeros == loaded.weights // 2
    assert loaded.base_sha256 == dense.checkpoint.fingerprint()


@pytest.mark.parametrize("key", ["{}.mask", "{}.weight", "{}"])
def test_keys_may_be_spelled_otherwise_and_tiles_given(dense: Model, tmp_path, key: str) -> None:
    expected = sources.uniform(dense.coverage, (16, 32))
    members = sources.maskllm_members({name: mask.keep() for name, mask in expected.items()})
    members = {key.format(name.removesuffix(".weight.mask")): data for name, data in members.items()}
    source = sources.write_npz(tmp_path / "m.npz", members)
    assert_same(dense.import_from(source, tile=(16, 32), format="maskllm"), expected)


def test_linears_without_a_mask_are_dense(make_dense, tmp_path) -> None:
    dense = make_dense(exclude=("*.v_proj",))
    every = sources.uniform(make_dense().coverage)
    keeps = {name: mask.keep() for name, mask in every.items() if "o_proj" not in name}
    keeps["lm_head"] = np.ones((40, 48), np.bool_)
    masks = dense.import_from(sources.write_npz(tmp_path / "m.npz", sources.maskllm_members(keeps)))
    assert all(mask.tiles.all() == ("o_proj" not in name) for name, mask in masks.items())
    assert len(masks.record.imported.unmasked) == 3
    assert set(masks.record.imported.ignored) == {"lm_head", *(name for name in every if "v_proj" in name)}
    assert any(line.startswith("dense: 3 covered linears") for line in dense.notes)
    assert any(line.startswith("left out: masks of lm_head") for line in dense.notes)


def test_groups_that_keep_fewer_than_two(dense: Model, tmp_path) -> None:
    """The model has more weights in such groups: they are kept, lowest k first, and counted."""
    keeps = {name: mask.keep() for name, mask in sources.uniform(dense.coverage).items()}
    name = next(iter(keeps))
    keeps[name][0, :8] = [0, 0, 0, 1, 0, 0, 0, 0]
    masks = dense.import_from(sources.write_npz(tmp_path / "m.npz", sources.maskllm_members(keeps)))
    assert masks[name].keep()[0, :8].tolist() == [1, 0, 0, 1, 1, 1, 0, 0]
    assert "kept: 3 weights that the source zeroes beyond two of a group of 4" in dense.notes


def test_another_models_masks(dense: Model, tmp_path) -> None:
    members = sources.maskllm_members(
        {name: mask.keep() for name, mask in sources.uniform(dense.coverage).items()}
    )
    other = {"model.layers.9.mlp.up_proj.weight.mask": members[next(iter(members))]}
    only_head = sources.maskllm_members({"lm_head": np.ones((40, 48), np.bool_)})
    twice = {"model.layers.0.mlp.up_proj.mask": members["model.layers.0.mlp.up_proj.weight.mask"]}
    for name, found in (("a", members | other), ("b", only_head), ("c", members | twice)):
        with refused():
            dense.import_from(sources.write_npz(tmp_path / f"{name}.npz", found))
