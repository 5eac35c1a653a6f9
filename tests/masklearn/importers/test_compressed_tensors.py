import struct

import numpy as np

from masklearn.model.checkpoint import Checkpoint
from tests.masklearn.importers import sources
from tests.masklearn.importers.conftest import Model, assert_same
from tests.refusals import refused

UP = "model.layers.0.mlp.up_proj"


def config(kind: str) -> dict[str, object]:
    sparsity = {"format": kind, "sparsity_structure": "2:4", "ignore": ["lm_head"]}
    return {"quantization_config": {"quant_method": "compressed-tensors", "sparsity_config": sparsity}}


def test_sparse_24_bitmask(dense: Model, tmp_path) -> None:
    expected = sources.uniform(dense.coverage)
    keeps = {name: mask.keep() for name, mask in expected.items()}
    source = sources.write_compressed(tmp_path / "ct", dense.checkpoint, keeps, config("sparse-24-bitmask"))
    assert_same(dense.import_from(source), expected)
    assert dense.notes[0].startswith("format: compressed-tensors (it holds model.layers.0.")


def test_linears_that_are_not_compressed_are_dense(dense: Model, tmp_path) -> None:
    masks = sources.uniform(dense.coverage)
    keeps = {name: mask.keep() for name, mask in masks.items() if "mlp" in name}
    imported = dense.import_from(sources.write_compressed(tmp_path / "ct", dense.checkpoint, keeps))
    assert all(mask.tiles.any() == ("mlp" in name) for name, mask in imported.items())


def test_sparse_bitmask_holds_a_mosaic(dense: Model, tmp_path) -> None:
    expected = sources.mosaics(dense.coverage, (16, 16))
    source = sources.write_compressed(
        tmp_path / "ct", dense.checkpoint, dense.nonzero(expected), config("sparse-bitmask")
    )
    imported = dense.import_from(source)
    for name, mask in expected.items():
        np.testing.assert_array_equal(imported[name].keep(), mask.keep(), err_msg=name)


def test_formats_that_are_not_known(dense: Model, tmp_path) -> None:
    keeps = {name: mask.keep() for name, mask in sources.uniform(dense.coverage).items()}
    source = sources.write_compressed(tmp_path / "ct", dense.checkpoint, keeps, config("sparse-99"))
    with refused():
        dense.import_from(source)


def test_damaged_tensors(dense: Model, tmp_path) -> None:
    keeps = {name: mask.keep() for name, mask in sources.uniform(dense.coverage).items()}
    source = sources.write_compressed(tmp_path / "ct", dense.checkpoint, keeps)
    values = dense.checkpoint.read(f"{UP}.weight").astype(np.float32)
    good = sources.raw_tensors(Checkpoint.open(source))
    bad = keeps[UP].copy()
    bad[3, 8:12] = [True, True, True, False]
    plain = sources.compressed(bad, values)  # sparse-bitmask
    bits = good[f"{UP}.bitmask"]
    for change in (
        {"shape": None},
        {"shape": ("I64", (2, 1), struct.pack("<2q", 48, 72))},
        {"bitmask": ("I8", *bits[1:])},
        {"bitmask": ("U8", (72 * 6,), bits[2])},
        {"bitmask": plain["bitmask"]},
        {"compressed": plain["compressed"]},
        {"compressed": None},
        plain | {"compressed": ("F32", (4,), bytes(16))},
        plain | {"row_offsets": ("I64", (72,), bytes(8 * 72))},
        {"bitmask": None, "shape": None},
    ):
        changes = {f"{UP}.{kind}": tensor for kind, tensor in change.items()}
        tensors = {key: value for key, value in (good | changes).items() if value is not None}
        sources.write_safetensors(source / "model.safetensors", tensors)
        with refused():
            dense.import_from(source)


def test_columns_that_do_not_fill_a_byte(make_dense, tmp_path) -> None:
    dense = make_dense(intermediate_size=76)
    expected = sources.uniform(dense.coverage)
    keeps = {name: mask.keep() for name, mask in expected.items()}
    source = sources.write_compressed(tmp_path / "ct", dense.checkpoint, keeps)
    assert_same(dense.import_from(source), expected)
    tensors = sources.raw_tensors(Checkpoint.open(source))
    down = "model.layers.0.mlp.down_proj.bitmask"
    dtype, shape, data = tensors[down]
    tensors[down] = (dtype, shape, data[:9] + bytes([data[9] | 0x80]) + data[10:])
    sources.write_safetensors(source / "model.safetensors", tensors)
    with refused():
        dense.import_from(source)
