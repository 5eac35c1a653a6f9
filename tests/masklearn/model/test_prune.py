import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.config import SparsityCompressionConfig
from safetensors.torch import load_file, save_file
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig

from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears, covered_linears_of
from masklearn.model.folder import left_out
from masklearn.model.models import load_model
from masklearn.model.prune import masked_weight, write_compressed, write_pruned_checkpoint
from masklearn.quant.grid import Grid, storable
from masklearn.quant.table import INT4, INT8, W8A8, WeightType
from tests.masklearn.edits import edited_weights
from tests.masklearn.mask_sets import random_masks, set_of
from tests.refusals import refused


def test_pruned_weights_are_plus_zero():
    weight = np.array([[-1.0, -0.0, 2.0, -3.0]], np.float16)
    out = masked_weight(weight, np.array([[False, True, True, False]]))
    assert (
        out.view(np.uint16).tolist() == np.array([[0.0, -0.0, 2.0, 0.0]], np.float16).view(np.uint16).tolist()
    )


def test_a_pruned_checkpoint_says_what_it_is(make_model, tmp_path):
    """Its weights: tests/masklearn/test_every_architecture.py."""
    source, out = make_model(), tmp_path / "pruned"
    masks = random_masks(covered_linears(source).linears)
    (source / "pytorch_model.bin").write_bytes(b"never copied")
    write_pruned_checkpoint(Checkpoint.open(source), masks, out)
    assert not (out / "pytorch_model.bin").exists()
    written = json.loads((out / "config.json").read_text())
    assert set(written.pop("sparsity_config")["targets"]) <= set(masks)
    assert written == json.loads((source / "config.json").read_text())
    AutoTokenizer.from_pretrained(out)


def copied_of(contents, source, out):
    """Write files of these contents next to a model, prune it, and return the names of the copies, which must be equal."""
    for name, text in contents.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    write_pruned_checkpoint(Checkpoint.open(source), set_of({}), out)
    copied = {name for name in contents if (out / name).is_file()}
    assert all((out / name).read_text() == contents[name] for name in copied)
    return copied


def test_hidden_folders_of_modules_are_not_copied(make_model, tmp_path):
    """No check looks at the links in them."""
    source, secret, out = make_model(), tmp_path / "secret", tmp_path / "pruned"
    secret.write_text("of the user")
    (source / "1_Pooling/.hidden").mkdir(parents=True)
    (source / "1_Pooling/.hidden/config.json").symlink_to(secret)
    assert copied_of({"1_Pooling/config.json": "{}"}, source, out)
    assert [file.name for file in (out / "1_Pooling").iterdir()] == ["config.json"]


def test_what_belongs_to_a_model_is_copied(make_model, tmp_path):
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "head"}]
    contents = {
        "modules.json": json.dumps(modules),
        "1_Pooling/config.json": "{}",
        "head/model.safetensors": "weights of a module",
        "additional_chat_templates/tool.jinja": "template",
        "sentence_bert_config.json": "{}",
        "spiece.model": "sentencepiece",
        "LICENSE": "terms",
        "LICENSE-MIT.txt": "terms",
        "Notice.txt": "terms",
        "README.md": "card",
    }
    assert copied_of(contents, make_model(), tmp_path / "pruned") == {*contents}


def test_files_of_the_user_are_not_copied(make_model, tmp_path):
    contents = {
        ".env": "TOKEN=1",
        ".git/config": "not the model's",
        ".config.json": "{}",
        "1_Pooling/server.key": "secret",
        "LICENSE_KEY.txt": "secret",
        "modeling_mine.py": "code",
        "notes.txt": "mine",
        "onnx/config.json": "an export",
        "server.key": "secret",
        "sub/a.json": "{}",
    }
    source = make_model()
    assert copied_of(contents, source, tmp_path / "pruned") == set()
    assert left_out(source).startswith(
        "not copied with the model: 1_Pooling/, LICENSE_KEY.txt, modeling_mine.py, notes.txt, onnx/ and 2 more"
    )


def test_a_plain_model_leaves_nothing_out(make_model):
    source = make_model()
    (source / "pytorch_model.bin").touch()
    (source / ".gitattributes").touch()
    assert left_out(source) == ""


def test_no_copy_has_more_permissions_than_its_source(make_model, tmp_path):
    source = make_model()
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling/config.json").write_text("{}")
    modes = {
        "config.json": 0o640,
        "model.safetensors": 0o600,
        "tokenizer.json": 0o444,
        "1_Pooling/config.json": 0o600,
    }
    for name, mode in modes.items():
        (source / name).chmod(mode)
    write_pruned_checkpoint(Checkpoint.open(source), set_of({}), tmp_path / "out")
    umask = os.umask(0)
    os.umask(umask)
    for name, mode in modes.items():
        assert (tmp_path / "out" / name).stat().st_mode & 0o777 == (mode | 0o600) & 0o666 & ~umask, name


WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1}


def write(source, out, masks):
    """Write the pruned model, and return the block of its config that describes the masks."""
    write_pruned_checkpoint(Checkpoint.open(source), masks, out)
    return json.loads((out / "config.json").read_text()).get("sparsity_config")


def zeros(folder):
    """Returns zeros and all weights of a folder."""
    checkpoint = Checkpoint.open(folder)
    arrays = [checkpoint.read(name) for name in checkpoint.names()]
    return sum(int((array == 0).sum()) for array in arrays), sum(array.size for array in arrays)


def test_a_mosaic_is_described_by_what_it_is(make_model, tmp_path):
    source = make_model()
    linears = covered_linears(source).linears
    dense = next(iter(linears))
    found = set_of({**random_masks(linears), dense: random_masks(linears, share=0.0)[dense]})
    block = write(source, tmp_path / "out", found)
    read = SparsityCompressionConfig.load_from_registry(block["format"], **block)
    assert read.format == "dense" and read.sparsity_structure == "unstructured"
    assert read.targets == [name for name in found if found[name].tiles.any()]
    assert dense not in read.targets and read.targets
    zeroed, weights = zeros(tmp_path / "out")
    assert found.zeroed == zeroed and read.global_sparsity == pytest.approx(zeroed / weights)
    mosaic = block["mosaic"]
    assert mosaic["ratio"] == found.ratio and mosaic["tiles"] == {"32x32": len(linears)}
    assert set(mosaic["kinds"]) == {"dense", "2:4"} and sum(mosaic["kinds"].values()) == pytest.approx(1)
    assert mosaic["kinds"]["2:4"] == pytest.approx(2 * found.ratio)


def test_pruning_again_includes_the_last_block(make_model, tmp_path):
    source = make_model()
    linears = covered_linears(source).linears
    first = write(source, tmp_path / "half", random_masks(linears))
    second = write(tmp_path / "half", tmp_path / "whole", random_masks(linears, share=1.0))
    assert first["sparsity_structure"] == "unstructured" and second["sparsity_structure"] == "2:4"
    assert second["mosaic"]["kinds"] == {"2:4": 1.0}
    third = write(tmp_path / "half", tmp_path / "none", random_masks(linears, share=0.0))
    assert third is None and np.isclose(first["mosaic"]["ratio"], 0.25, atol=0.1)


def on_grids(folder: Path, kind: Any) -> dict[str, Grid]:
    """Round the covered linears of a folder to grids, with every other weight 0 and every other row's scales negative.

    kind: the type of a linear.
    """
    checkpoint, grids = Checkpoint.open(folder), {}
    files = {file: load_file(folder / file) for file in checkpoint.shards()}
    for linear in covered_linears_of(checkpoint).linears:
        of: WeightType | None = kind(linear)
        if of is None:
            continue
        weight = checkpoint.read(f"{linear}.weight").astype(np.float32)
        weight[:, 1::2] = 0
        parts = weight.reshape(len(weight), -1, of.span or weight.shape[1])
        scales = storable((np.abs(parts).max(-1) / of.highest).astype(np.float32))
        scales[1::2] *= -1
        grids[linear] = grid = Grid(of, scales if of.span else scales[:, 0])
        integers = np.rint(parts / scales[..., None]).reshape(weight.shape).astype(np.int8)
        values = torch.from_numpy(grid.values(integers, np.dtype(np.float32)))
        for tensors in files.values():
            if f"{linear}.weight" in tensors:
                tensors[f"{linear}.weight"] = values.to(tensors[f"{linear}.weight"].dtype)
    for file, tensors in files.items():
        save_file(tensors, folder / file, {"format": "pt"})
    return grids


KINDS: dict[str, Any] = {
    "int8": lambda _: INT8,
    "int4": lambda linear: None if linear.endswith("v_proj") else INT4,
    "mixed": lambda linear: INT4 if ".mlp." in linear else W8A8 if linear.endswith("k_proj") else INT8,
    "w8a8": lambda linear: None if linear.endswith("v_proj") else W8A8,
}


@pytest.mark.parametrize(
    ("kinds", "dtype"),
    [
        ("int4", torch.float16),
        ("int8", torch.bfloat16),
        ("mixed", torch.bfloat16),
        ("w8a8", torch.float16),
    ],
    ids=str,
)
def test_transformers_loads_the_very_weights(kinds: str, dtype: torch.dtype, make_model: Any) -> None:
    path: Path = make_model(dtype=dtype, **WIDE)
    out = path.with_name("compressed")
    write_compressed(Checkpoint.open(path), on_grids(path, KINDS[kinds]), out)
    expected = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).state_dict()
    model = AutoModelForCausalLM.from_pretrained(out, dtype=dtype)
    model(torch.tensor([[1, 2, 3]]))  # the library unpacks the weights in the first pass
    found = model.state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_transformers_rounds_the_inputs_too(make_model: Any) -> None:
    """compressed-tensors divides the largest input by 127.5, not by 127: its errors are other errors of the same size."""
    path: Path = make_model(**WIDE)
    out, ids = path.with_name("compressed"), torch.arange(24)[None] % 40
    write_compressed(Checkpoint.open(path), on_grids(path, KINDS["w8a8"]), out)
    plain, ours = load_model(path)(ids).logits, load_model(out)(ids).logits
    theirs = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)(ids).logits
    assert 0.5 < (theirs - plain).norm() / (ours - plain).norm() < 2.0


@pytest.mark.parametrize("shard", ["5GB", "60KB"])
def test_we_read_the_very_weights_and_grids(make_model: Any, shard: str) -> None:
    path: Path = make_model(shard=shard, dtype=torch.bfloat16, **WIDE)
    grids, out = on_grids(path, KINDS["mixed"]), path.with_name("compressed")
    dense = Checkpoint.open(path)
    steps: list[tuple[str, int, int]] = []
    write_compressed(dense, grids, out, lambda *step: steps.append(step))
    read, stored = Checkpoint.open(out), Checkpoint.open(out, as_stored=True)
    assert read.names() == dense.names() and list(read.shards()) == list(dense.shards())
    assert (len(read.shards()) > 1) == (shard != "5GB")
    for name in dense.names():
        np.testing.assert_array_equal(read.read(name), dense.read(name))
    assert set(read.grids) == set(grids)
    for linear, grid in grids.items():
        assert read.grids[linear].type is grid.type
        np.testing.assert_array_equal(read.grids[linear].scales, grid.scales)
    rounded = sorted(name for name, grid in grids.items() if grid.type is W8A8)
    assert rounded and list(read.rounded_inputs) == rounded
    assert steps[-1][1:] == (len(dense.names()), len(dense.names()))
    assert (out / "tokenizer.json").is_file() and stored.bytes() < dense.bytes()
    if shard != "5GB":
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"]) == set(stored.names())
        assert index["metadata"]["total_size"] == stored.bytes()


def test_scales_beyond_16_bits_are_written_in_32(make_model: Any) -> None:
    path: Path = make_model(dtype=torch.float16, **WIDE)
    checkpoint = Checkpoint.open(path)
    name = "model.layers.0.self_attn.q_proj"
    grid = Grid(INT8, np.full(128, 0.0123456, np.float32))
    values = grid.values(np.arange(128 * 128).reshape(128, 128).astype(np.int8), np.dtype(np.float16))
    with edited_weights(path) as tensors:
        tensors[f"{name}.weight"] = torch.from_numpy(values)
    out = path.with_name("compressed")
    write_compressed(checkpoint, {name: grid}, out)
    stored = Checkpoint.open(out, as_stored=True)
    assert stored.entry(f"{name}.weight_scale").dtype == "F32"
    loaded = AutoModelForCausalLM.from_pretrained(
        out, dtype=torch.float16, quantization_config=CompressedTensorsConfig(dequantize=True)
    )
    assert torch.equal(loaded.state_dict()[f"{name}.weight"], torch.from_numpy(values))


def test_models_beyond_the_format_are_refused(make_model: Any, tmp_path: Path) -> None:
    grid = Grid(INT8, np.ones(4, np.float32))
    for kind in ("gpt2", "mixtral"):
        with refused():
            write_compressed(Checkpoint.open(make_model(kind)), {"any": grid}, tmp_path / "out")
    with refused():
        write_compressed(Checkpoint.open(make_model()), {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_weight_off_its_grid_is_a_fault(make_model: Any, tmp_path: Path) -> None:
    path: Path = make_model(**WIDE)
    grids = on_grids(path, KINDS["int8"])
    name = next(iter(grids))
    wrong = grids | {name: Grid(INT8, grids[name].scales * np.float32(1.5))}
    with refused(ValueError, varies=r"\d\.\d+"):
        write_compressed(Checkpoint.open(path), wrong, tmp_path / "out")


def test_torch_takes_two_four_linears(make_model, tmp_path):
    """By the conversion of `torch.sparse.to_sparse_semi_structured`, whose GEMM needs a GPU."""
    source, out = make_model(hidden_size=64, intermediate_size=128), tmp_path / "pruned"
    masks = random_masks(covered_linears(source).linears, share=1.0)
    write_pruned_checkpoint(Checkpoint.open(source), masks, out)
    weights = load_file(out / "model.safetensors")
    for name in masks:
        weight = weights[f"{name}.weight"].half()
        assert torch.equal(
            sparse_semi_structured_to_dense_cutlass(*sparse_semi_structured_from_dense_cutlass(weight)),
            weight,
        )
