"""Learning with tiles of other kinds than 2:4 and with weights of other types, from a model to its pruned checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from masklearn.baselines import compare_with_baselines, run_baselines
from masklearn.learning import Learned
from masklearn.masks.kinds.table import BY_CODE
from masklearn.masks.maskset import MaskSet
from masklearn.methods import method_of
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.linears import read_linear
from masklearn.model.naming import from_stored
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
from tests.refusals import refused

SETTINGS = {"tile": (32, 64)}
AUTO = {"weights": "auto", "windows": 2}
SIZES = {"hidden_size": 64, "intermediate_size": 128}


def check(learned: Learned, tiny: Tiny, type_: str = "", **others: str) -> dict[str, np.ndarray]:
    """The pruned weights lie on the grids in the mask file, and tiles keep what their kinds say. Returns integers by linear.

    type_: type of the linears, "" for 16 bits; others: types of linears by the ends of their names.
    """
    masks, pruned = learned.masks, tiny.prune(learned, f"pruned-{len(list(tiny.folder.iterdir()))}")
    masks.save(tiny.folder / "masks")
    loaded, found = MaskSet.load(tiny.folder / "masks"), {}
    for name, mask in masks.items():
        keep, own = mask.keep(), others.get(name.rpartition(".")[2], type_)
        weight = from_stored(pruned, f"{name}.weight", pruned.read(f"{name}.weight"))
        np.testing.assert_array_equal(loaded[name].keep(), keep)
        assert (loaded.grids[name].type.name if name in loaded.grids else "") == own, name
        # Integers round small weights to 0.
        assert not (weight != 0)[~keep].any() if own else ((weight != 0) == keep).all()
        if own:
            found[name] = loaded.grids[name].integers(weight)
            assert len(np.unique(found[name])) > (12 if own == "int4" else 60)
        for i, j in np.ndindex(mask.kinds.shape):
            kind = BY_CODE[int(mask.kinds[i, j])]
            tile = keep[32 * i : 32 * i + 32, 64 * j : 64 * j + 64]
            if kind.family is not None:
                assert (kind.family.groups(tile).sum(-1) == kind.kept).all()
    assert masks.zeroed == sum(int((~mask.keep()).sum()) for mask in masks.values())
    return found


@pytest.mark.parametrize("method", ["oneshot", "sparsegpt", "wanda", "magnitude"])
@pytest.mark.parametrize("weights", [None, "w8a8"])
def test_every_method_mixes_kinds(
    make_model: ModelMaker, tiny: Tiny, method: str, weights: str | None
) -> None:
    """Kinds that go with inputs of 8 bits are others."""
    settings = {"method": method, "kinds": "auto", "ratio": 0.3 if weights else 0.35, "weights": weights}
    learned = tiny.learn(make_model(**SIZES), **settings)
    check(learned, tiny, weights or "")
    assert abs(learned.masks.ratio - settings["ratio"]) * learned.masks.weights < 32 * 64 / 2
    kinds = {kind.name for kind in learned.masks.by_kind()}
    assert kinds | {"dense"} == {"dense", "2:4", "6:8"} if weights else len(kinds) >= 2


def test_one_kind_everywhere_needs_no_scores(make_model: ModelMaker, tiny: Tiny) -> None:
    """Repair keeps pruned weights at 0."""
    settings = {"kinds": "12:16", "ratio": 0.25, "repair": "distill", "repair_steps": 2}
    learned = tiny.learn(make_model(**SIZES), **settings)
    check(learned, tiny)
    assert [kind.name for kind in learned.masks.by_kind()] == ["12:16"]
    assert (learned.masks.ratio, learned.masks.bytes_per_weight) == (0.25, 1.625)
    assert learned.masks.record.repair is not None
    assert learned.masks.record.repair.steps == 2
    assert not (tiny.folder / "scratch" / "scores").exists()


def test_permuted_with_kinds_by_pattern(make_model: ModelMaker, tiny: Tiny) -> None:
    settings = {"kinds": "mlp.*=8:16,12:16,q_proj=2:4", "ratio": 0.3, "permute": True}
    learned = tiny.learn(make_model(**SIZES), **settings)
    check(learned, tiny)
    for name, mask in learned.masks.items():
        kinds = {kind.name for kind in mask.by_kind()} - {"dense"}
        assert kinds <= ({"8:16", "12:16"} if ".mlp." in name else {"2:4"}), name
    assert learned.masks.orders


@pytest.mark.parametrize("kinds", ["auto", "2:4"])
def test_bytes_are_not_exceeded(make_model: ModelMaker, tiny: Tiny, kinds: str) -> None:
    settings = {"method": "magnitude", "kinds": kinds, "bytes_per_weight": 1.4}
    learned = tiny.learn(make_model(**SIZES), **settings)
    masks = learned.masks
    assert 1.4 - 0.875 * 32 * 64 / masks.weights < masks.bytes_per_weight <= 1.4
    choice = masks.record.choice
    assert choice is not None
    assert (choice.unit, choice.asked) == ("bytes_per_weight", 1.4)
    assert choice.reached == pytest.approx(masks.bytes_per_weight, rel=1e-5)
    assert choice.kinds == pytest.approx(
        dict.fromkeys(choice.kinds, 0.0)
        | {kind.name: n / masks.weights for kind, n in masks.by_kind().items()},
        rel=1e-5,
    )
    assert masks.ratio_asked == masks.ratio


@pytest.mark.parametrize("method", ["oneshot", "sparsegpt", "wanda", "magnitude", "patch-tile"])
def test_every_method_rounds(make_model: ModelMaker, tiny: Tiny, method: str) -> None:
    """Linears with dense tiles only are rounded too."""
    settings = {"method": method, "weights": "int8,mlp.*=int4,o_proj=float16", "ratio": "*=0.3,k_proj=0"}
    learned = tiny.learn(make_model(**SIZES, num_hidden_layers=2), steps=2, **settings)
    check(learned, tiny, "int8", gate_proj="int4", up_proj="int4", down_proj="int4", o_proj="")
    assert not learned.masks["model.layers.0.self_attn.k_proj"].kinds.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model_type", ["gpt2", "qwen2"])
def test_checkpoints_of_16_bits_and_transposed_weights(
    make_model: ModelMaker, tiny: Tiny, model_type: str, dtype: torch.dtype
) -> None:
    sizes = SIZES | ({"n_embd": 64, "n_inner": 128} if model_type == "gpt2" else {})
    path = make_model(model_type, dtype=dtype, num_hidden_layers=2, **sizes)
    assert check(tiny.learn(path, weights="int4", kinds="8:16", ratio=0.3), tiny, "int4")


def test_an_encoder_and_a_covered_head(make_model: ModelMaker, tiny: Tiny) -> None:
    bert = make_model("bert", **SIZES, num_hidden_layers=2)
    llama = make_model(**SIZES, num_hidden_layers=2, tie_word_embeddings=False)
    check(tiny.learn(bert, "b", weights="int8", ratio=0.3), tiny, "int8")
    settings = {"weights": "int8", "ratio": 0.3, "include": ["lm_head", "q_proj"]}
    assert "lm_head" in check(tiny.learn(llama, "l", **settings), tiny, "int8")


def test_permuted_and_repaired_weights_stay_on_the_grid(make_model: ModelMaker, tiny: Tiny) -> None:
    """Repair comes before the rounding, so it moves integers."""
    settings = {"weights": "int4", "kinds": "auto", "ratio": 0.3, "permute": True}
    path = make_model(**SIZES, num_hidden_layers=2)
    before = check(tiny.learn(path, "a", **settings), tiny, "int4")
    learned = tiny.learn(path, "b", **settings, repair="distill", repair_steps=16)
    after = check(learned, tiny, "int4")
    assert learned.masks.orders
    assert any((before[name] != after[name]).any() for name in before)
    record = learned.masks.record.repair
    assert record is not None and record.kl_first is not None and record.kl_last is not None
    assert record.kl_last < record.kl_first


def test_naming_16_bits_equals_naming_no_type(make_model: ModelMaker, tiny: Tiny) -> None:
    path, files = make_model(**SIZES, num_hidden_layers=2), []
    for at, weights in enumerate((None, "float16", "mlp.*=bfloat16")):
        learned = tiny.learn(path, f"{at}", weights=weights, ratio=0.3)
        learned.masks.save(tiny.folder / "masks")
        written = (tiny.folder / "masks", *tiny.prune(learned, f"model-{at}").files())
        files.append([file.read_bytes() for file in written])
    assert len(files[0]) == 2 and files[0] == files[1] == files[2]


def test_results_include_a_dense_model_of_their_type(
    make_model: ModelMaker, tiny: Tiny, tmp_path: Path
) -> None:
    path = make_model(**SIZES, num_hidden_layers=2)
    windows = np.arange(32).reshape(2, 16) % 40
    names = [Baseline.DENSE, Baseline.ROUNDED, Baseline.UNIFORM]
    given = tiny.recipe(weights="int8", ratio=0.3)
    dense, rounded, uniform = run_baselines(path, given, names, windows, tmp_path / "b")
    assert (rounded.name, rounded.ratio, rounded.bytes_per_weight) == ("dense-rounded", 0.0, 1.0)
    assert uniform.bytes_per_weight == 0.625
    assert rounded.perplexity != dense.perplexity
    assert abs(rounded.perplexity / dense.perplexity - 1) < 0.05
    plain = run_baselines(path, tiny.recipe(ratio=0.3), names[:2], windows, tmp_path / "c")
    assert [row.name for row in plain] == ["dense"]  # rounding to 16 bits changes nothing


def types_of(masks: MaskSet) -> dict[str, str]:
    return {name: str(masks.grids[name].type if name in masks.grids else FLOAT16) for name in masks}


def test_fewer_bytes_take_smaller_types(make_model: ModelMaker, tiny: Tiny) -> None:
    path, found = make_model(**SIZES, num_hidden_layers=1), {}
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
    path, given = (
        make_model(**SIZES, num_hidden_layers=1),
        {"bytes_per_weight": 0.8, "weights": "int8,int4", "windows": 2},
    )
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
    path = make_model(**SIZES, num_hidden_layers=1)
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
    path, records = make_model(**SIZES, num_hidden_layers=1), []
    for weights in ("int8", "w8a8"):
        asked = {"weights": weights, "repair": "distill", "repair_steps": 2, "batch": 1, "ratio": 0.25}
        records.append(tiny.learn(path, weights, windows=2, **asked).masks.record.repair)
    assert records[0] is not None and records[1] is not None
    assert records[0].kl_first != records[1].kl_first


def test_the_loss_of_w8a8_counts_its_inputs(make_model: ModelMaker, tiny: Tiny) -> None:
    """Its weights lose as much as int8's. The rest is the output error of rounding the inputs, here summed by hand."""
    path = make_model(**SIZES, num_hidden_layers=1)
    task = tiny.task(path, "s", weights="int8,w8a8", criterion="raw", windows=2)
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


def test_solved_rounding_beats_nearest_rounding(make_model: ModelMaker, tiny: Tiny) -> None:
    """`magnitude` rounds to the nearest integers, `sparsegpt` on the Hessian. Nothing is pruned."""
    path, lost, name = make_model(**SIZES, num_hidden_layers=2), {}, "model.layers.0.mlp.gate_proj"
    for method in ("magnitude", "sparsegpt"):
        learned = tiny.learn(path, method, method=method, weights="int4", ratio=0.0)
        change = read_linear(learned.checkpoint, name) - read_linear(Checkpoint.open(path), name)
        lost[method] = float(change.square().sum())
    assert lost["magnitude"] < lost["sparsegpt"]  # nearer, but not better: see solvers/test_rounding.py
