"""Quantised pruned checkpoints written as compressed-tensors, and read by the library and by ourselves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from masklearn.base.errors import MaskLearnError
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears_of
from masklearn.model.prune import write_compressed
from masklearn.quant.grid import Grid, storable
from masklearn.quant.table import INT4, INT8, WeightType


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
    "mixed": lambda linear: INT4 if ".mlp." in linear else INT8,
}


@pytest.mark.parametrize(
    ("kinds", "dtype"),
    [("int4", torch.float16), ("int8", torch.bfloat16), ("mixed", torch.bfloat16)],
    ids=str,
)
def test_transformers_loads_the_very_weights(kinds: str, dtype: torch.dtype, make_model: Any) -> None:
    from transformers import AutoModelForCausalLM

    path: Path = make_model(dtype=dtype, hidden_size=128, intermediate_size=256, num_hidden_layers=1)
    out = path.with_name("compressed")
    write_compressed(Checkpoint.open(path), on_grids(path, KINDS[kinds]), out)
    expected = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).state_dict()
    model = AutoModelForCausalLM.from_pretrained(out, dtype=dtype)
    model(torch.tensor([[1, 2, 3]]))  # the library unpacks the weights in the first pass
    found = model.state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("shard", ["5GB", "60KB"])
def test_we_read_the_very_weights_and_grids(make_model: Any, shard: str) -> None:
    path: Path = make_model(
        shard=shard, dtype=torch.bfloat16, hidden_size=128, intermediate_size=256, num_hidden_layers=1
    )
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
    assert steps[-1][1:] == (len(dense.names()), len(dense.names()))
    assert (out / "tokenizer.json").is_file() and stored.bytes() < dense.bytes()
    if shard != "5GB":
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"]) == set(stored.names())
        assert index["metadata"]["total_size"] == stored.bytes()


def test_a_scale_that_the_models_type_does_not_hold_is_written_in_32_bits(make_model: Any) -> None:
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    path: Path = make_model(dtype=torch.float16, hidden_size=128, intermediate_size=256, num_hidden_layers=1)
    checkpoint = Checkpoint.open(path)
    name = "model.layers.0.self_attn.q_proj"
    grid = Grid(INT8, np.full(128, 0.0123456, np.float32))
    values = grid.values(np.arange(128 * 128).reshape(128, 128).astype(np.int8), np.dtype(np.float16))
    tensors = load_file(path / "model.safetensors") | {f"{name}.weight": torch.from_numpy(values)}
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    out = path.with_name("compressed")
    write_compressed(checkpoint, {name: grid}, out)
    stored = Checkpoint.open(out, as_stored=True)
    assert stored.entry(f"{name}.weight_scale").dtype == "F32"
    loaded = AutoModelForCausalLM.from_pretrained(
        out, dtype=torch.float16, quantization_config=CompressedTensorsConfig(dequantize=True)
    )
    assert torch.equal(loaded.state_dict()[f"{name}.weight"], torch.from_numpy(values))


def test_models_that_the_format_does_not_hold_are_refused(make_model: Any, tmp_path: Path) -> None:
    grid = Grid(INT8, np.ones(4, np.float32))
    for kind, why in (("gpt2", "stored transposed"), ("mixtral", "experts are fused")):
        with pytest.raises(MaskLearnError, match=f"no model of the type {kind}") as error:
            write_compressed(Checkpoint.open(make_model(kind)), {"any": grid}, tmp_path / "out")
        assert why in error.value.why
    with pytest.raises(MaskLearnError, match="has no quantised linears"):
        write_compressed(Checkpoint.open(make_model()), {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_weight_off_its_grid_is_a_fault(make_model: Any, tmp_path: Path) -> None:
    path: Path = make_model(hidden_size=128, intermediate_size=256, num_hidden_layers=1)
    grids = on_grids(path, KINDS["int8"])
    name = next(iter(grids))
    wrong = grids | {name: Grid(INT8, grids[name].scales * np.float32(1.5))}
    with pytest.raises(ValueError, match="is not on the grid of int8"):
        write_compressed(Checkpoint.open(path), wrong, tmp_path / "out")
