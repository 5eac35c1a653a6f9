"""Learning with weight types that are chosen by their loss and saving."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from masklearn.baselines import compare_with_baselines
from masklearn.learning import Learned, learn
from masklearn.masks.maskset import MaskSet
from masklearn.methods import method_of
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import read_linear
from masklearn.model.prune import write_pruned_checkpoint
from masklearn.model.rounded_inputs import round_inputs
from masklearn.quality.record import Baseline
from masklearn.quant.grid import Grid
from masklearn.quant.table import FLOAT16, INT4, INT8, W8A8
from masklearn.recipe import LearnRecipe
from masklearn.stream.blocks import stream_blocks
from masklearn.stream.feed import CheckpointFeed
from masklearn.stream.logits import watch_calls
from tests.conftest import ModelMaker
from tests.masklearn.model.quantised.writers import compressed_tensors, gptq, scheme
from tests.masklearn.tasks import task_of
from tests.refusals import refused

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}


def recipe(text_file: Path, **settings: Any) -> LearnRecipe:
    given = {"tile": (32, 64), "calib": str(text_file), "windows": 2, "length": 16, "repair": "none"}
    return LearnRecipe.parse(given | {"weights": "auto"} | settings)


def types_of(masks: MaskSet) -> dict[str, str]:
    return {name: str(masks.grids[name].type if name in masks.grids else FLOAT16) for name in masks}


def test_fewer_bytes_take_smaller_types(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    path = make_model(**SIZES)
    found = {}
    for asked in (1.9, 0.45):
        settings = {"bytes_per_weight": asked, "method": "sparsegpt", "kinds": "2:4,8:16"}
        learned = learn(path, recipe(text_file, **settings), tmp_path / f"{asked}")
        assert learned.masks.packed_bytes_per_weight <= asked
        types = types_of(learned.masks)
        at = "model.layers.0"  # what shares its inputs shares its type
        assert len({types[f"{at}.self_attn.{one}_proj"] for one in "qkv"}) == 1
        assert len({types[f"{at}.mlp.{one}_proj"] for one in ("gate", "up")}) == 1
        found[asked] = [*types.values()]
    assert {*found[1.9]} == {"float16", "int8"} and "int4" in found[0.45]


def test_repair_comes_between_the_choice_and_the_rounding(
    make_model: ModelMaker, text_file: Path, tmp_path: Path
) -> None:
    path, given = make_model(**SIZES), {"bytes_per_weight": 0.8, "weights": "int8,int4"}
    plain = learn(path, recipe(text_file, **given), tmp_path / "a")
    asked = recipe(text_file, **given, repair="distill", repair_steps=3)
    learned = learn(path, asked, tmp_path / "b")
    assert types_of(learned.masks) == types_of(plain.masks)
    assert {*types_of(learned.masks).values()} == {"int8", "int4"}
    record = learned.masks.record.repair
    assert record is not None and record.scale_steps
    write_pruned_checkpoint(learned.checkpoint, learned.masks, tmp_path / "model")  # checks the grids
    # Baselines have the types that were chosen.
    windows = np.arange(32).reshape(2, 16) % 40
    names = [Baseline.ROUNDED]
    beside = compare_with_baselines(
        path, asked, tmp_path / "model", learned.masks, 1.0, names, windows, tmp_path / "c"
    )
    result, rounded = beside.rows
    assert result.bytes_per_weight <= rounded.bytes_per_weight < 1.0


@pytest.mark.parametrize(
    "settings",
    [
        {"ratio": 0.3},
        {"bytes_per_weight": 0.9, "method": "wanda"},
        {"bytes_per_weight": 0.9, "criterion": "random"},
        {"bytes_per_weight": 0.3},
    ],
)
def test_untyped_methods_refuse_auto_types(
    make_model: ModelMaker, text_file: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    with refused():
        learn(make_model(**SIZES), recipe(text_file, **settings), tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_w8a8_learns_its_kinds_and_names_its_linears(
    make_model: ModelMaker, text_file: Path, tmp_path: Path
) -> None:
    path = make_model(**SIZES)
    given = {"weights": "w8a8,v_proj=int8,o_proj=float16", "kinds": "auto", "bytes_per_weight": 1.2}
    repair = {"repair": "distill", "repair_steps": 2, "batch": 1}
    for settings in ({}, repair):
        found = learn(path, recipe(text_file, **given, **settings), tmp_path / f"s{len(settings)}")
        types = types_of(found.masks)
        assert {*types.values()} == {"w8a8", "int8", "float16"}
        for name, kind in types.items():
            kinds = {one.name for one in found.masks[name].by_kind()}
            assert kind != "w8a8" or kinds <= {"dense", "2:4", "6:8"}
        write_pruned_checkpoint(found.checkpoint, found.masks, tmp_path / f"m{len(settings)}")
        rounded = Checkpoint.open(tmp_path / f"m{len(settings)}").rounded_inputs
        assert list(rounded) == sorted(name for name, kind in types.items() if kind == "w8a8")


def test_repair_trains_on_rounded_inputs(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    """Linears of int8 compute in 16 bits until they are rounded, so only their inputs tell the two types apart."""
    path, records = make_model(**SIZES), []
    for weights in ("int8", "w8a8"):
        asked = {"weights": weights, "repair": "distill", "repair_steps": 2, "batch": 1, "ratio": 0.25}
        records.append(learn(path, recipe(text_file, **asked), tmp_path / weights).masks.record.repair)
    assert records[0] is not None and records[1] is not None
    assert records[0].kl_first != records[1].kl_first


def test_the_loss_of_w8a8_counts_its_inputs(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    """Its weights lose as much as int8's. The rest is the output error of rounding the inputs, here summed by hand."""
    asked = recipe(text_file, weights="int8,w8a8", criterion="raw")
    task = task_of(make_model(**SIZES), asked, tmp_path / "s")
    losses = {
        name: one.rounding.by_type for name, one in method_of("oneshot").candidates(CheckpointFeed(task))
    }
    inputs: dict[str, list[torch.Tensor]] = {name: [] for name in losses}
    for block in stream_blocks(task.checkpoint, task.text.calibration()):
        with watch_calls(block.linears, lambda name, x, _: inputs[name].append(x[0])):
            block.forward()
    for name, by_type in losses.items():
        x = torch.cat(inputs[name])
        error = (round_inputs(x) - x) @ read_linear(task.checkpoint, name).T
        assert by_type[W8A8] - by_type[INT8] == pytest.approx(float(error.square().sum()) / len(x), rel=0.3)


ONE_BLOCK = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1}
WRITE: dict[str, Callable[[Path], Any]] = {
    "int4": lambda path: compressed_tensors(path, scheme(4, 64)),
    "int8": lambda path: gptq(path, 8, -1),
}


def learned(path: Path, text: Path, scratch: Path, **settings: Any) -> Learned:
    given = {"tile": (32, 64), "calib": str(text), "windows": 4, "length": 16, "repair": "none", "ratio": 0.3}
    return learn(path, LearnRecipe.parse(given | settings), scratch)


def pruned_integers(found: Learned, folder: Path) -> dict[str, Any]:
    """Integers of the written checkpoint by linear. Pruned weights are 0."""
    write_pruned_checkpoint(found.checkpoint, found.masks, folder)
    pruned = Checkpoint.open(folder)
    integers = {
        name: grid.integers(pruned.read(f"{name}.weight")) for name, grid in found.masks.grids.items()
    }
    assert all(not one[~found.masks[name].keep()].any() for name, one in integers.items())
    return integers


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("int4", {"method": "oneshot"}),
        ("int4", {"method": "magnitude"}),
        ("int8", {"method": "sparsegpt", "repair": "distill", "repair_steps": 2, "batch": 1}),
        ("int8", {"method": "patch-joint", "steps": 2, "batch": 1, "prior": "magnitude"}),
    ],
)
def test_scales_are_kept(
    make_model: ModelMaker, text_file: Path, tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    path = make_model(dtype=torch.float16, **ONE_BLOCK)
    WRITE[kind](path)
    given = Checkpoint.open(path)
    found = learned(path, text_file, tmp_path / "s", **settings)
    integers = pruned_integers(found, tmp_path / "pruned")
    assert set(integers) == set(found.masks) and found.masks.ratio > 0.25
    changed = 0
    for name, grid in found.masks.grids.items():
        assert grid.type is given.grids[name].type
        np.testing.assert_array_equal(grid.scales, given.grids[name].scales)
        before = given.grids[name].integers(given.read(f"{name}.weight")) * found.masks[name].keep()
        changed += int((before != integers[name]).sum())
    assert (changed == 0) == (settings["method"] == "magnitude")


def test_without_pruning_every_integer_is_kept(
    make_model: ModelMaker, text_file: Path, tmp_path: Path
) -> None:
    path = make_model(dtype=torch.bfloat16, **ONE_BLOCK)
    expected = WRITE["int4"](path)
    found = learned(path, text_file, tmp_path / "s", ratio=0.0, method="sparsegpt")
    integers = pruned_integers(found, tmp_path / "pruned")
    for name, one in expected.items():
        np.testing.assert_array_equal(integers[name], one.numpy())


def test_other_types_can_be_asked_for(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    path = make_model(dtype=torch.float16, **ONE_BLOCK)
    WRITE["int4"](path)
    weights = "v_proj=int8,o_proj=float16"
    masks = learned(path, text_file, tmp_path / "s", weights=weights, method="wanda").masks
    grids: dict[str, Grid] = {name.rpartition(".")[2]: grid for name, grid in masks.grids.items()}
    assert "o_proj" not in grids and grids["v_proj"].type is INT8
    given = Checkpoint.open(path).grids
    for name, grid in masks.grids.items():
        if not name.endswith("v_proj"):
            assert grid.type is INT4
            np.testing.assert_array_equal(grid.scales, given[name].scales)
    assert not learned(path, text_file, tmp_path / "t", weights="float16", method="wanda").masks.grids


def test_channels_that_share_scales_are_not_reordered(
    make_model: ModelMaker, text_file: Path, tmp_path: Path
) -> None:
    path = make_model(dtype=torch.float16, **ONE_BLOCK)
    WRITE["int4"](path)
    with refused():
        learned(path, text_file, tmp_path / "s", permute=True)


def test_the_model_writes_its_own_text(make_model: ModelMaker, tmp_path: Path) -> None:
    path = make_model(dtype=torch.float16, **ONE_BLOCK)
    WRITE["int4"](path)
    given = {"tile": (32, 64), "windows": 2, "length": 16, "repair": "none", "ratio": 0.3, "method": "wanda"}
    masks = learn(path, LearnRecipe.parse(given), tmp_path / "s").masks
    assert masks.grids and masks.record.text is not None and masks.record.text.source == "self"
