"""Scales of input channels are moved into weights without changing what a model computes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from masklearn.masks.maskset import MaskSet
from masklearn.masks.stored import COLUMNS, ROWS
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.prune import write_pruned_checkpoint
from masklearn.model.store import WeightStore
from masklearn.permute import reordered
from masklearn.quant.table import FLOAT16, INT4, INT8, W8A8, WeightType
from masklearn.smooth import Smoothed, folded, smooth
from tests.conftest import ModelMaker
from tests.masklearn.architectures import every
from tests.masklearn.conftest import Tiny
from tests.masklearn.edits import edited_weights
from tests.masklearn.mask_sets import set_of
from tests.masklearn.test_permute import outputs

# Inputs of a block that something in front of them can scale: norms do for q, k and v and for gate and up, up for down, v
# for o. The norms of BERT's family stand behind their sum, which others read too; an activation stands in front of down.
SITES = {
    "bert": 1,
    "roberta": 1,
    "xlm-roberta": 1,
    "distilbert": 1,
    "mpnet": 1,
    "gpt2": 3,
    "opt": 4,
    "llama": 4,
    "phi3": 4,
    "gemma2": 4,
}
SETTINGS = {"tile": (32, 64)}
WIDE = {"hidden_size": 64, "intermediate_size": 128}
EXACT = [name for name in SITES if name != "gemma2"]


def smoothed(path: Path, tiny: Tiny, **others: WeightType) -> Smoothed:
    """others: types of linears of other types, by the end of their names."""
    task = tiny.task(path)
    types = {name: others.get(name.rpartition(".")[2], W8A8) for name in task.coverage.linears}
    return smooth(task, {name: kind for name, kind in types.items() if kind.quantised})


@pytest.mark.parametrize("model_type", every())
def test_the_smoothed_model_computes_the_same(make_model: ModelMaker, tiny: Tiny, model_type: str) -> None:
    path = make_model(model_type)
    found = smoothed(path, tiny)
    write_pruned_checkpoint(found.checkpoint, set_of({}), tiny.folder / "smoothed")
    before, after = outputs(path, model_type), outputs(tiny.folder / "smoothed", model_type)
    if model_type in EXACT:
        assert torch.equal(after, before) and found.record.dense_error == 0.0
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    if model_type in SITES:
        assert found.record.sites == 3 * SITES[model_type]


def test_large_channels_become_small(make_model: ModelMaker, tiny: Tiny) -> None:
    """A channel that is 64 times as large as others is divided by more than others, and its columns are multiplied."""
    path, norm = make_model("llama"), "model.layers.1.input_layernorm.weight"
    with edited_weights(path) as tensors:
        tensors[norm][5] *= 64
    found = smoothed(path, tiny)
    rows = found.folds[f"{norm}{ROWS}"]
    assert rows[5] == rows.max() and rows[5] >= 2
    assert np.array_equal(found.folds[f"model.layers.1.self_attn.k_proj.weight{COLUMNS}"], rows)
    assert found.checkpoint.read(norm)[5] == float(tensors[norm][5]) / 2.0 ** rows[5]


def test_heads_that_share_values_share_scales(make_model: ModelMaker, tiny: Tiny) -> None:
    path = make_model("llama")
    config, folds = Checkpoint.open(path).config, smoothed(path, tiny).folds
    heads, values = config["num_attention_heads"], config["num_key_value_heads"]
    columns = folds[f"model.layers.0.self_attn.o_proj.weight{COLUMNS}"].reshape(values, heads // values, -1)
    rows = folds[f"model.layers.0.self_attn.v_proj.weight{ROWS}"].reshape(values, 1, -1)
    assert heads > values and rows.any() and np.array_equal(columns, np.broadcast_to(rows, columns.shape))


def test_only_inputs_of_w8a8_are_scaled(make_model: ModelMaker, tiny: Tiny) -> None:
    """A linear of 16 bits may share the input; a linear of another integer type keeps it from being scaled."""
    found = smoothed(make_model("llama"), tiny, k_proj=FLOAT16, gate_proj=INT4, down_proj=INT8)
    scaled = {name.removesuffix(COLUMNS).split(".")[-2] for name in found.folds if name.endswith(COLUMNS)}
    assert scaled == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert {name.rpartition(".")[2] for name in found.record.whole} == {"up_proj"}


def test_the_checkpoint_holds_every_scaled_number(make_model: ModelMaker, tiny: Tiny) -> None:
    """bfloat16 holds every product with a power of two, but not (1 + w) / d - 1."""
    path = make_model("gemma2", dtype=torch.bfloat16)
    with edited_weights(path) as tensors:
        for name, tensor in tensors.items():
            tensor += 0.3 if "norm" in name else 0.0
    found = smoothed(path, tiny)
    assert found.record.whole and found.record.shifted and found.record.dense_error == 0.0
    for name, rows in found.folds.items():
        if "norm" in name:
            tensor = name.removesuffix(ROWS)
            wanted = (1 + tensors[tensor].double()) / 2.0 ** torch.from_numpy(rows).double() - 1
            assert torch.equal(found.checkpoint.torch(tensor).double(), wanted)


def test_learning_smooths_w8a8_and_says_so(make_model: ModelMaker, tiny: Tiny) -> None:
    path = make_model("llama", **WIDE)
    for weights, smooths in (("w8a8", True), ("int8", False), ("int4", False), ("w8a8,int4", False)):
        given = {"method": "sparsegpt", "weights": weights, "windows": 2} | (
            {"bytes_per_weight": 1.0} if "," in weights else {"ratio": 0.25}
        )
        masks = tiny.learn(path, weights, **given).masks
        assert bool(masks.folds) == (masks.record.smoothed is not None) == smooths


def test_chosen_w8a8_is_smoothed_before_a_repair(make_model: ModelMaker, tiny: Tiny) -> None:
    path = make_model("llama", **WIDE)
    given = {"method": "sparsegpt", "weights": "w8a8,int4", "windows": 2, "bytes_per_weight": 0.7}
    given |= {"repair": "distill", "repair_steps": 1}
    learned = tiny.learn(path, **given)
    types = {name: str(grid.type) for name, grid in learned.masks.grids.items()}
    assert {*types.values()} == {"w8a8", "int4"}
    scaled = {one.removesuffix(f".weight{COLUMNS}") for one in learned.masks.folds if one.endswith(COLUMNS)}
    assert scaled and {types[name] for name in scaled} == {"w8a8"}
    tiny.prune(learned)  # checks the grids


def test_smoothed_and_permuted_masks_belong_to_one_model(make_model: ModelMaker, tiny: Tiny) -> None:
    """The base model with the folds and the orders of a mask file computes the same, in the coordinates of the masks."""
    path = make_model("llama", **WIDE)
    given = {"method": "sparsegpt", "weights": "w8a8", "windows": 2, "ratio": 0.25, "permute": True}
    made, file = tiny.learn(path, **given).masks, tiny.folder / "masks.safetensors"
    made.save(file)
    masks = MaskSet.load(file)
    assert masks.folds and masks.orders and masks.record.smoothed == made.record.smoothed
    dense = folded(Checkpoint.open(path), masks.folds, WeightStore(tiny.folder / "folded"), shifted=False)
    same = reordered(dense, masks.orders, WeightStore(tiny.folder / "reordered", below=dense.new))
    write_pruned_checkpoint(same, set_of({}), tiny.folder / "model")
    torch.testing.assert_close(outputs(tiny.folder / "model", "llama"), outputs(path, "llama"))


def test_scaling_lowers_the_error_of_blocks(make_model: ModelMaker, tiny: Tiny) -> None:
    """Otherwise the site keeps its channels."""
    found = smoothed(make_model("llama"), tiny)
    assert 0 < found.record.scaled <= found.record.sites
    assert found.record.scaled == sum(
        bool(one.any()) for name, one in found.folds.items() if name.endswith(ROWS) and "bias" not in name
    )
