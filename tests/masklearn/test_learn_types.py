"""Learning with weight types that are chosen by their loss and saving."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from masklearn.baselines import compare_with_baselines
from masklearn.learning import Learned
from masklearn.masks.maskset import MaskSet
from masklearn.methods import method_of
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import read_linear
from masklearn.model.rounded_inputs import round_inputs
from masklearn.quality.record import Baseline
from masklearn.quant.grid import Grid
from masklearn.quant.table import FLOAT16, INT4, INT8, W8A8
from masklearn.stream.blocks import stream_blocks
from masklearn.stream.feed import CheckpointFeed
from masklearn.stream.logits import watch_calls
from tests.conftest import ModelMaker
from tests.masklearn.conftest import Tiny
from tests.masklearn.model.quantised.writers import compressed_tensors, gptq, scheme
from tests.masklearn.tasks import task_of
from tests.refusals import refused

SETTINGS = {"tile": (32, 64)}
AUTO = {"weights": "auto", "windows": 2}
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}


def types_of(masks: MaskSet) -> dict[str, str]:
    return {name: str(masks.grids[name].type if name in masks.grids else FLOAT16) for name in masks}


def test_fewer_bytes_take_smaller_types(make_model: ModelMaker, tiny: Tiny) -> None:
    path, found = make_model(**SIZES), {}
    for asked in (1.9, 0.45):
        settings = AUTO | {"bytes_per_weight": asked, "method": "sparsegpt", "kinds": "2:4,8:16"}
        learned = tiny.learn(path, f"{asked}", **settings)
        assert learned.masks.packed_bytes_per_weight <= asked
        types = types_of(learned.masks)
        at = "model.layers.0"  # what shares its inputs shares its type
        assert len({types[f"{at}.self_attn.{one}_proj"] for one in "qkv"}) == 1
        assert len({types[f"{at}.mlp.{one}_proj"] for one in ("gate", "up")}) == 1
        found[asked] = [*types.values()]
    assert {*found[1.9]} == {"float16", "int8"} and "int4" in found[0.45]


def test_repair_comes_between_the_choice_and_the_rounding(make_model: ModelMaker, tiny: Tiny) -> None:
    path, given = make_model(**SIZES), {"bytes_per_weight": 0.8, "weights": "int8,int4", "windows": 2}
    plain = tiny.learn(path, "a", **given)
    given |= {"repair": "distill", "repair_steps": 3}
    learned = tiny.learn(path, "b", **given)
    assert types_of(learned.masks) == types_of(plain.masks)
    assert {*types_of(learned.masks).values()} == {"int8", "int4"}
    record = learned.masks.record.repair
    assert record is not None and record.scale_steps
    model = tiny.prune(learned).path  # checks the grids
    # Baselines have the types that were chosen.
    asked, windows = tiny.recipe(**given), np.arange(32).reshape(2, 16) % 40
    result, rounded = compare_with_baselines(
        path, asked, model, learned.masks, 1.0, [Baseline.ROUNDED], windows, tiny.folder / "c"
    ).rows
    assert result.bytes_per_weight <= rounded.bytes_per_weight < 1.0


def test_w8a8_learns_its_kinds_and_names_its_linears(make_model: ModelMaker, tiny: Tiny) -> None:
    path = make_model(**SIZES)
    given = {
        "weights": "w8a8,v_proj=int8,o_proj=float16",
        "kinds": "auto",
        "bytes_per_weight": 1.2,
        "windows": 2,
    }
    repair = {"repair": "distill", "repair_steps": 2, "batch": 1}
    for settings in ({}, repair):
        found = tiny.learn(path, f"s{len(settings)}", **given, **settings)
        types = types_of(found.masks)
        assert {*types.values()} == {"w8a8", "int8", "float16"}
        for name, kind in types.items():
            kinds = {one.name for one in found.masks[name].by_kind()}
            assert kind != "w8a8" or kinds <= {"dense", "2:4", "6:8"}
        rounded = tiny.prune(found, f"m{len(settings)}").rounded_inputs
        assert list(rounded) == sorted(name for name, kind in types.items() if kind == "w8a8")


def test_repair_trains_on_rounded_inputs(make_model: ModelMaker, tiny: Tiny) -> None:
    """Linears of int8 compute in 16 bits until they are rounded, so only their inputs tell the two types apart."""
    path, records = make_model(**SIZES), []
    for weights in ("int8", "w8a8"):
        asked = {"weights": weights, "repair": "distill", "repair_steps": 2, "batch": 1, "ratio": 0.25}
        records.append(tiny.learn(path, weights, windows=2, **asked).masks.record.repair)
    assert records[0] is not None and records[1] is not None
    assert records[0].kl_first != records[1].kl_first


def test_the_loss_of_w8a8_counts_its_inputs(make_model: ModelMaker, tiny: Tiny) -> None:
    """Its weights lose as much as int8's. The rest is the output error of rounding the inputs, here summed by hand."""
    asked = tiny.recipe(weights="int8,w8a8", criterion="raw", windows=2)
    task = task_of(make_model(**SIZES), asked, tiny.folder / "s")
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


def pruned_integers(found: Learned, tiny: Tiny) -> dict[str, Any]:
    """Integers of the written checkpoint by linear. Pruned weights are 0."""
    pruned = tiny.prune(found)
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
def test_scales_are_kept(make_model: ModelMaker, tiny: Tiny, kind: str, settings: dict[str, Any]) -> None:
    path = make_model(dtype=torch.float16, **ONE_BLOCK)
    WRITE[kind](path)
    given = Checkpoint.open(path)
    found = tiny.learn(path, ratio=0.3, **settings)
    integers = pruned_integers(found, tiny)
    assert set(integers) == set(found.masks) and found.masks.ratio > 0.25
    changed = 0
    for name, grid in found.masks.grids.items():
        assert grid.type is given.grids[name].type
        np.testing.assert_array_equal(grid.scales, given.grids[name].scales)
        before = given.grids[name].integers(given.read(f"{name}.weight")) * found.masks[name].keep()
        changed += int((before != integers[name]).sum())
    assert (changed == 0) == (settings["method"] == "magnitude")


def test_without_pruning_every_integer_is_kept(make_model: ModelMaker, tiny: Tiny) -> None:
    path = make_model(dtype=torch.bfloat16, **ONE_BLOCK)
    expected = WRITE["int4"](path)
    found = tiny.learn(path, ratio=0.0, method="sparsegpt")
    integers = pruned_integers(found, tiny)
    for name, one in expected.items():
        np.testing.assert_array_equal(integers[name], one.numpy())


def test_other_types_can_be_asked_for(make_model: ModelMaker, tiny: Tiny) -> None:
    path = make_model(dtype=torch.float16, **ONE_BLOCK)
    WRITE["int4"](path)
    weights = "v_proj=int8,o_proj=float16"
    masks = tiny.learn(path, "s", weights=weights, method="wanda", ratio=0.3).masks
    grids: dict[str, Grid] = {name.rpartition(".")[2]: grid for name, grid in masks.grids.items()}
    assert "o_proj" not in grids and grids["v_proj"].type is INT8
    given = Checkpoint.open(path).grids
    for name, grid in masks.grids.items():
        if not name.endswith("v_proj"):
            assert grid.type is INT4
            np.testing.assert_array_equal(grid.scales, given[name].scales)
    assert not tiny.learn(path, "t", weights="float16", method="wanda", ratio=0.3).masks.grids


def test_channels_that_share_scales_are_not_reordered(make_model: ModelMaker, tiny: Tiny) -> None:
    path = make_model(dtype=torch.float16, **ONE_BLOCK)
    WRITE["int4"](path)
    with refused():
        tiny.learn(path, permute=True)


def test_the_model_writes_its_own_text(make_model: ModelMaker, tiny: Tiny) -> None:
    path = make_model(dtype=torch.float16, **ONE_BLOCK)
    WRITE["int4"](path)
    masks = tiny.learn(path, calib=None, windows=2, ratio=0.3, method="wanda").masks
    assert masks.grids and masks.record.text is not None and masks.record.text.source == "self"
