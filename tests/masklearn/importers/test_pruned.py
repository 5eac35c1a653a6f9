import numpy as np
import pytest
import torch

from masklearn.importers.inference import nonzero
from masklearn.masks.kinds.table import DENSE, FAMILIES, PRUNED, TWO_FOUR
from masklearn.masks.linear_mask import LinearMask, kept_per_group
from masklearn.masks.tiles import grid_shape
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.prune import write_pruned_checkpoint
from tests.masklearn.edits import edited_weights
from tests.masklearn.importers import sources
from tests.masklearn.importers.conftest import Model, assert_same
from tests.masklearn.mask_sets import set_of
from tests.mosaics import IN_16_BITS
from tests.mosaics import mosaic as random_mosaic
from tests.refusals import refused


@pytest.mark.parametrize(
    ("tile", "dtype"), [((16, 16), torch.float32), ((32, 16), torch.float16), ((16, 64), torch.bfloat16)]
)
def test_a_pruned_model_gives_its_masks_back(make_dense, tmp_path, tile, dtype) -> None:
    dense = make_dense(dtype=dtype, shard="40KB")
    expected = sources.mosaics(dense.coverage, tile)
    masks = set_of(expected)
    write_pruned_checkpoint(dense.checkpoint, masks, tmp_path / "pruned")
    imported = dense.import_from(tmp_path / "pruned")
    for name, mask in expected.items():
        np.testing.assert_array_equal(imported[name].keep(), mask.keep(), err_msg=name)
    assert imported.ratio == pytest.approx(masks.ratio)
    assert "format: checkpoint (a Hugging Face directory, whose zeros are the mask)" in dense.notes


def test_zeros_of_either_sign_and_beyond_the_pattern(dense: Model, tmp_path) -> None:
    expected = sources.mosaics(dense.coverage, (16, 16), seed=2)
    keeps = {name: mask.keep().copy() for name, mask in expected.items()}
    rng = np.random.default_rng(0)
    for keep in keeps.values():
        keep &= rng.random(keep.shape) > 0.03
    source = sources.write_pruned(tmp_path / "pruned", dense.checkpoint, keeps)
    masks = dense.import_from(source)
    for name, mask in expected.items():
        assert masks[name].tile == (16, 16)
        np.testing.assert_array_equal(masks[name].tiles, mask.tiles)
        assert not (~masks[name].keep() & keeps[name]).any()  # no surviving weight is pruned
    zeros = sum(int((~keep).sum()) for keep in keeps.values())
    assert masks.record.imported.zeros == zeros
    assert f"{zeros / masks.weights:.4f} of the weights are zero" in " ".join(dense.notes)


def test_tiles_that_are_nearly_two_four_are_said(dense: Model, tmp_path) -> None:
    keeps = {name: mask.keep() for name, mask in sources.uniform(dense.coverage).items()}
    keeps["model.layers.0.mlp.up_proj"][3, 4:8] = True
    source = sources.write_pruned(tmp_path / "pruned", dense.checkpoint, keeps)
    masks = dense.import_from(source, tile=(16, 16))
    assert int((~masks["model.layers.0.mlp.up_proj"].tiles).sum()) == 1
    assert any(line.startswith("dense: 1 tiles that are 2:4 but for") for line in dense.notes)


def test_models_that_are_not_pruned_two_four(dense: Model, tmp_path) -> None:
    with refused():
        dense.import_from(dense.checkpoint.path)
    rng = np.random.default_rng(0)
    keeps = {name: rng.random(shape) > 0.5 for name, shape in dense.coverage.linears.items()}
    with refused():
        dense.import_from(sources.write_pruned(tmp_path / "pruned", dense.checkpoint, keeps))


def test_damaged_sources(dense: Model, tmp_path) -> None:
    keeps = {name: mask.keep() for name, mask in sources.uniform(dense.coverage).items()}
    source = sources.write_pruned(tmp_path / "pruned", dense.checkpoint, keeps)
    name = "model.layers.0.mlp.up_proj.weight"
    whole = (source / "model.safetensors").read_bytes()
    for fault in (
        torch.full((72, 48), torch.nan),
        torch.zeros(48, 72),
        torch.zeros(72, 48, dtype=torch.int8),
        None,
    ):
        (source / "model.safetensors").write_bytes(whole)
        with edited_weights(source) as tensors:
            tensors.pop(name)
            tensors.update({} if fault is None else {name: fault})
        with refused():
            dense.import_from(source)
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with refused():
        dense.import_from(source)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tiny_weights_survive_infinity_is_refused(make_dense, dtype) -> None:
    dense, name = make_dense(dtype=dtype), "model.layers.0.mlp.up_proj.weight"
    tiny = torch.nextafter(torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype))
    for value in (1.0, float("inf"), float("-inf")):
        with edited_weights(dense.checkpoint.path) as tensors:
            tensors[name][0, :4] = torch.stack([tiny, -tiny, 0 * tiny, 0 * -tiny])
            tensors[name][1, 1] = value
        checkpoint = Checkpoint.open(dense.checkpoint.path)
        if value == 1.0:
            assert nonzero(checkpoint, name)[0, :4].tolist() == [True, True, False, False]
        else:
            with refused():
                nonzero(checkpoint, name)


@pytest.mark.parametrize("model_type", ["phi3", "gpt2", "gpt_neox", "mixtral", "gemma3", "bert"])
def test_checkpoints_of_other_layouts(make_dense, tmp_path, model_type) -> None:
    """Layouts are fused, transposed, renamed, with experts, below a prefix, and an encoder's."""
    dense = make_dense(model_type)
    expected = sources.mosaics(dense.coverage, (16, 16))
    masks = set_of(expected)
    write_pruned_checkpoint(dense.checkpoint, masks, tmp_path / "pruned")
    assert_same(dense.import_from(tmp_path / "pruned"), expected)


def test_each_tile_gets_its_tightest_kind(make_dense, tmp_path) -> None:
    dense = make_dense(hidden_size=64, intermediate_size=128)
    rng, keeps, kinds = np.random.default_rng(3), {}, {}
    for name, shape in dense.coverage.linears.items():
        kinds[name] = rng.choice([0, 1, 2, 3], grid_shape(shape, (16, 64))).astype(np.uint8)
        scores = rng.random(shape)
        kept = kept_per_group(kinds[name], shape, (16, 64), "n:16")
        codes = {"2:4": FAMILIES["2:4"].best(scores, 2), "n:16": FAMILIES["n:16"].best(scores, kept)}
        keeps[name] = LinearMask.from_codes(shape, (16, 64), kinds[name], codes).keep()
    source = sources.write_pruned(tmp_path / "pruned", dense.checkpoint, keeps)
    masks = dense.import_from(source, tile=(16, 64), kinds="auto")
    for name, keep in keeps.items():
        np.testing.assert_array_equal(masks[name].kinds, kinds[name])
        np.testing.assert_array_equal(masks[name].keep(), keep)
    plain = dense.import_from(source, tile=(16, 64))
    for name in keeps:
        np.testing.assert_array_equal(plain[name].tiles, kinds[name] == 1)
        assert not plain[name].others
    found = dense.import_from(source, tile=(16, 64), kinds="12:16")
    for name in keeps:  # tiles of 8:16 keep all their weights in 12:16, and no other
        assert {*np.unique(found[name].kinds).tolist()} <= {0, 3}
        assert not (keeps[name] & ~found[name].keep()).any()
        assert (found[name].kinds[(kinds[name] >= 2)] == 3).all()


WITH_6_8 = DENSE, TWO_FOUR, PRUNED["6:8"]


@pytest.mark.parametrize(
    ("tile", "kinds"),
    [((16, 16), WITH_6_8), ((64, 64), WITH_6_8), ((32, 128), IN_16_BITS), ((64, 192), IN_16_BITS)],
)
def test_named_kinds_are_found_with_their_tile_size(make_dense, tmp_path, tile, kinds) -> None:
    dense = make_dense(hidden_size=192, intermediate_size=384, num_hidden_layers=1)
    names = ",".join(kind.name for kind in kinds if kind is not DENSE)
    expected = {
        name: random_mosaic(shape, tile, seed, kinds)
        for seed, (name, shape) in enumerate(dense.coverage.linears.items())
    }
    keeps = {name: mask.keep() for name, mask in expected.items()}
    source = sources.write_pruned(tmp_path / "pruned", dense.checkpoint, keeps)
    masks = dense.import_from(source, kinds=names)
    assert any(note.startswith(f"tile: {tile[0]}x{tile[1]} (the largest that ") for note in dense.notes)
    for name, mask in expected.items():
        np.testing.assert_array_equal(masks[name].keep(), keeps[name])
        np.testing.assert_array_equal(masks[name].kinds, mask.kinds)
    auto = dense.import_from(source, tile=tile, kinds="auto")  # weights may stay in 16 bits
    assert "6:8" not in {kind.name for kind in auto.by_kind()}


def test_kinds_that_auto_leaves_out_are_said(make_dense, tmp_path) -> None:
    """`down_proj` has 72 columns, which groups of 16 do not fit."""
    dense = make_dense(hidden_size=64, intermediate_size=72, num_hidden_layers=1)
    keeps = {
        name: random_mosaic(shape, (16, 32), 1, [TWO_FOUR]).keep()
        if shape[1] == 64
        else np.ones(shape, np.bool_)
        for name, shape in dense.coverage.linears.items()
    }
    source = sources.write_pruned(tmp_path / "pruned", dense.checkpoint, keeps)
    dense.import_from(source, tile=(16, 64), kinds="auto")
    (said,) = [note for note in dense.notes if note.startswith("kinds:")]
    assert said == (
        "kinds: auto leaves 8:16, 12:16 out in 1 of 7 linears, such as model.layers.0.mlp.down_proj: "
        "K or the columns of a tile are not a multiple of 64"
    )


def test_errors_of_kinds_say_what_was_sought(make_dense, tmp_path) -> None:
    dense = make_dense(hidden_size=64, intermediate_size=128, num_hidden_layers=1)
    with refused():
        dense.import_from(dense.checkpoint.path, kinds="8:16,12:16")
    assert "too few tiles of these kinds to find it by; `tile` names another" in " ".join(dense.notes)
    with refused():
        dense.import_from(dense.checkpoint.path, tile=(64, 32), kinds="8:16")
