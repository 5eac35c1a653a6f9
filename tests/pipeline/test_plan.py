"""`patch-compile plan` reads no weight: it runs on a LLaMA-2-7B whose weights are holes in a file."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from masklearn.quant.grid import Grid
from masklearn.quant.table import INT8
from patch_compile.api.results import Planned, Result
from patch_compile.artifacts.plan import Asked, Reason, ReasonKind
from patch_compile.artifacts.plan_of_model import OtherTypes, TargetSource
from patch_compile.cli.app import cli
from patch_compile.hardware.gpu import local_gpu
from patch_compile.pipeline.plan import plan
from patch_compile.recipe import Recipe
from patch_compile.report.terminal import show
from tests.planning.assumed import assumed_mask, unpatterned_mask
from tests.planning.llama import LLAMA_2_7B, write_hollow_llama
from tests.refusals import refused

ROOT = Path(__file__).resolve().parents[2]
SMALL = LLAMA_2_7B | {"num_hidden_layers": 2}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return write_hollow_llama(tmp_path_factory.mktemp("hollow") / "llama-2-7b")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_hollow_llama(tmp_path_factory.mktemp("hollow") / "two-blocks", SMALL)


@pytest.fixture(scope="module")
def planned(model_dir):
    flags = [str(model_dir), "--ratio", "0.4", "--kinds", "2:4", "--target", "a6000", "--json"]
    result = CliRunner().invoke(cli.commands["plan"], flags, catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


def save_masks(masks, path, grids=None):
    about = {"method": "none", "seed": 0, "base_model": "m", "base_sha256": "", "ratio_asked": 0.4}
    MaskSet(masks, **about, grids=grids or {}).save(path)


def planned_for(model, **settings):
    return plan(Recipe.parse({"model": model, "target": "a6000", **settings}))


def test_no_weight_is_read(planned, model_dir, monkeypatch):
    def no_reading(*_args):
        raise AssertionError("a weight was read")

    monkeypatch.setattr(Checkpoint, "read", no_reading)
    assert planned_for(model_dir, ratio=0.4, kinds="2:4").as_json() == planned
    assert (model_dir / "model.safetensors").stat().st_size > 13e9


def test_a_target_that_nobody_asked_for_is_said(small, capsys):
    found = plan(Recipe.parse({"model": small, "ratio": 0.4}))
    show(Result(found).sections())
    assert found.target_source is (TargetSource.LOCAL_GPU if local_gpu() else TargetSource.DEFAULT)
    begins = "the GPU of this machine: predicted on " if local_gpu() else "no GPU here: predicted on A6000"
    assert capsys.readouterr().out.startswith(begins)


def test_real_tile_maps_are_planned_as_they_are(small, tmp_path, capsys):
    linears = {row.name: row.shape for row in planned_for(small, ratio=0.4).linears}
    masks = {
        name: assumed_mask(shape, (128, 128), 0.0 if "v_proj" in name else 0.45)
        for name, shape in linears.items()
    }
    save_masks(masks, tmp_path / "masks.safetensors")
    found = planned_for(small, mask=tmp_path / "masks.safetensors")
    for row in found.linears:
        assert row.zeroed == masks[row.name].zeroed
        reason = Reason(kind=ReasonKind.NO_SPARSE_TILE) if "v_proj" in row.name else None
        assert (row.lowering, row.reason) == ("dense" if reason else "plugin", reason)
    assert found.asked == Asked(mask=str(tmp_path / "masks.safetensors"))
    show(Result(found).sections())
    said = capsys.readouterr().out
    assert f"asked: masks of {tmp_path / 'masks.safetensors'}" in said
    with refused():
        planned_for(small, mask=tmp_path / "masks.safetensors", exclude=("*v_proj",))


def test_ratios_and_lowerings_by_pattern(small):
    rows = planned_for(small, ratio="mlp.*=0.5,q_proj=0.25", lowering="up_proj=dense").linears
    kinds = {row.name.rpartition(".")[2]: row for row in rows}
    shares = {kind: 2 * row.zeroed / (row.shape[0] * row.shape[1]) for kind, row in kinds.items()}
    assert shares == {"q_proj": 0.5, "k_proj": 0, "v_proj": 0, "o_proj": 0, "up_proj": 0} | dict.fromkeys(
        ("gate_proj", "down_proj"), 1.0
    )
    assert kinds["up_proj"].reason == Reason(kind=ReasonKind.ASKED)
    assert kinds["k_proj"].reason == Reason(kind=ReasonKind.NO_SPARSE_TILE)
    assert kinds["gate_proj"].lowering == "plugin"


def test_a_speed_names_its_ratio(small, capsys):
    only_tiles = {"weights": "float16", "kinds": "2:4", "tile": "128x128"}
    found = planned_for(small, speedup=1.3, **only_tiles)
    assert found.whole.end_to_end.speedup == pytest.approx(1.3, abs=0.005)
    assert planned_for(small, ratio=round(found.ratio - 0.01, 3)).whole.end_to_end.speedup < 1.3
    budget = found.whole.end_to_end.dense_ms / 1.3
    assert planned_for(small, speedup=f"{budget}ms", **only_tiles).ratio == found.ratio
    show(Result(found).sections())
    assert "asked: a speed-up of 1.3" in capsys.readouterr().out
    with refused():
        planned_for(small, speedup=1.9, **only_tiles)


def test_plans_name_the_counted_linears(capsys, tmp_path):
    narrow = LLAMA_2_7B | {"num_hidden_layers": 2, "hidden_size": 768, "num_attention_heads": 16, "num_key_value_heads": 2,
                           "intermediate_size": 8192}  # fmt: skip
    found = planned_for(write_hollow_llama(tmp_path / "narrow", narrow), ratio=0.4)
    zeroed = {row.lowering: [] for row in found.linears}
    for row in found.linears:
        zeroed[row.lowering].append(row.zeroed)
    assert not any(zeroed["dense"]) and all(zeroed["plugin"])
    gaining = [row for row in found.linears if row.zeroed]
    gains = found.choice.gains
    assert gains is not None and (gains.covered, gains.asked) == (14, 14)
    assert gains.gaining == len(gaining) < 14
    assert gains.ratio == pytest.approx(0.4, abs=2e-3)
    assert found.ratio == pytest.approx(gains.ratio_of_covered) and found.ratio < 0.4
    show(Result(found).sections(every=True))
    said = capsys.readouterr().out
    over = f"{gains.ratio:.4f} of their weights, {found.ratio:.4f} of the weights of all 14"
    assert f"{len(gaining)} of 14 linears gain by pruning on A6000: the ratio is {over}" in said
    everywhere = planned_for(tmp_path / "narrow", ratio=0.4, lowering="plugin")
    assert everywhere.choice.gains is None and all(row.zeroed for row in everywhere.linears)
    assert found.whole.end_to_end.speedup > everywhere.whole.end_to_end.speedup


def test_a_config_suffices_for_a_plan(planned, model_dir, tmp_path):
    shutil.copy(model_dir / "config.json", tmp_path / "config.json")
    for model in (tmp_path, tmp_path / "config.json"):
        found = planned_for(model, ratio=0.4, kinds="2:4").as_json() | {"model": planned["model"]}
        assert found["memory"] == pytest.approx(planned["memory"], rel=1e-3)  # norms are left out
        assert found | {name: planned[name] for name in ("memory", "types")} == planned


def test_a_plan_imports_neither_torch_nor_transformers():
    code = (
        "import sys, patch_compile; print(patch_compile.plan('samples/configs/llama-2-7b', ratio=0.4).summary()); "
        "assert not {'torch', 'transformers', 'scipy', 'onnx_ir'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True)
    assert "ratio 0.400" in done.stdout and not done.stderr


LLAMA_2_70B = LLAMA_2_7B | {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
                            "num_attention_heads": 64, "num_key_value_heads": 8}  # fmt: skip


def test_oversized_models_get_no_speed(planned, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_2_70B))
    found = planned_for(tmp_path, ratio=0.4)
    memory = found.memory
    assert memory.dense_weights == pytest.approx(138e9, rel=0.01) and memory.weights == pytest.approx(
        91e9, rel=0.01
    )
    assert memory.cache == 2 * 2 * 80 * 8 * 128 * 16 * 256
    assert not memory.fits and memory.cards == 2
    assert Planned(found).speedup is None and "does not fit" in Planned(found).summary()
    show(Result(found).sections(every=True))
    said = capsys.readouterr().out
    assert "Plan for a larger card" in said
    assert "does not fit: weights 91." in said and "2 such cards would hold it" in said
    assert "end to end" not in said and "planned, ms" not in said and "kinds: auto\n" in said
    assert planned["memory"]["card"] == 48 * 10**9 > planned["memory"]["weights"] + planned["memory"]["cache"]
    larger = planned_for(tmp_path, ratio=0.4, target="h200")
    show(Result(larger).sections())
    said = capsys.readouterr().out
    assert larger.memory.fits and "end to end" in said and "of 141 GB on H200" in said
    beside = planned_for(tmp_path, ratio=0.4, target="h200", batch_size=64)
    show(Result(beside).sections())
    assert "; the dense model does not fit" in capsys.readouterr().out


def test_several_targets_have_a_row_each(small, capsys):
    found = planned_for(small, ratio=0.4, target="orin,a6000,sm90")
    assert found.card is not None and found.card.name == "A6000"
    assert [(row.target, row.card and row.card.name) for row in found.targets] == [
        ("orin", None), ("a6000", "A6000"), ("sm90", "H100"),
    ]  # fmt: skip
    assert [row.whole for row in found.targets] == [
        None,
        *(planned_for(small, ratio=0.4, target=one).whole for one in ("a6000", "h100")),
    ]
    show(Result(found).sections())
    said = capsys.readouterr().out
    assert "A6000, for the first of orin, a6000, sm90 (no prediction for orin)" in said
    assert "orin: no prediction, as no card of its architecture has a data sheet" in said
    assert "sm90: predicted on H100, which stands for sm90" in said
    assert planned_for(small, ratio=0.4).targets == ()


def test_a_target_without_the_speed_says_so(small, capsys):
    found = planned_for(small, speedup=1.31, weights="float16", target="a6000,h100")
    assert [row.whole is None for row in found.targets] == [False, True]
    show(Result(found).sections())
    assert "h100: a speed-up of 1.31 is out of reach on H100" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings",
    [{"lowering": "gate=dense"}, {"weights": "bfloat16,v_proj=float16"}, {"weights": "gate=int8"}],
)
def test_mistakes_are_refused_in_words(small, settings):
    with refused():
        planned_for(small, ratio=0.4, **settings)


def test_targets_without_sheets_have_no_plan(small, unrated_sm120):
    with refused():
        planned_for(small, ratio=0.4, target="sm120")


def test_each_type_of_weights_has_its_plan(small):
    found = planned_for(small, ratio=0.4, weights="int8")
    assert found.weights == "int8" and {row.weights for row in found.linears} == {"int8"}
    rows = {row.weights: row for row in found.types}
    assert list(rows) == ["float16", "int8", "w8a8", "int4"]
    assert [row.planned for row in rows.values()] == [False, True, False, False]
    for weights, row in rows.items():
        alone = planned_for(small, ratio=0.4, weights=weights)
        assert (row.whole, row.linears_bytes) == (alone.whole, alone.totals.bytes_after)
        assert (row.ratio, row.model_bytes) == (alone.ratio, alone.memory.weights)


def test_patterned_weights_have_their_own_row(small):
    found = planned_for(small, ratio=0.4, weights="int8,mlp.*=int4,o_proj=float16")
    kinds = {row.name.rpartition(".")[2]: row.weights for row in found.linears}
    assert kinds == {
        "q_proj": "int8",
        "k_proj": "int8",
        "v_proj": "int8",
        "o_proj": "float16",
    } | dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "int4")
    assert found.weights == "int8,mlp.*=int4,o_proj=float16" == found.types[0].weights
    assert found.types[0].planned and found.types[0].whole == found.whole and len(found.types) == 5
    assert planned_for(small, ratio=0.4, weights="bfloat16").types[0].weights == "bfloat16"


def test_unfit_types_are_left_out_with_reasons(tmp_path, capsys):
    narrow = LLAMA_2_7B | {"num_hidden_layers": 1, "intermediate_size": 10016}
    found = planned_for(write_hollow_llama(tmp_path / "narrow", narrow), ratio=0.4)
    unfit = {row.weights: row.unfit for row in found.types}
    assert unfit == {"float16": None, "int8": None, "w8a8": None, "int4": "model.layers.0.mlp.down_proj"}
    show(Result(found).sections(every=True))
    assert "weights of int4 are left out: K of model.layers.0.mlp.down_proj" in capsys.readouterr().out
    with refused():
        planned_for(tmp_path / "narrow", ratio=0.4, weights="int4")


def test_n16_tiles_leave_w8a8_out(small, tmp_path, capsys):
    named = planned_for(small, ratio=0.3, kinds="8:16")
    grids = {row.name: np.full([-(-size // 128) for size in row.shape], 2) for row in named.linears}
    masks = {row.name: unpatterned_mask(row.shape, (128, 128), grids[row.name]) for row in named.linears}
    save_masks(masks, tmp_path / "masks.safetensors")
    for found in (named, planned_for(small, mask=tmp_path / "masks.safetensors")):
        assert [row.weights for row in found.types if row.wrong_kinds] == ["w8a8"]
    show(Result(named).sections(every=True))
    assert "weights of w8a8 are left out: their tiles are dense, 2:4 or 6:8, and" in capsys.readouterr().out
    auto = planned_for(small, ratio=0.3, kinds="auto", weights="w8a8")
    assert {kind for row in auto.linears for kind in row.slabs.others} <= {"6:8"} and auto.whole


def test_a_speed_takes_another_ratio_with_other_weights(small, capsys):
    found = planned_for(small, speedup=1.6, weights="int8")
    rows = {row.weights: row for row in found.types}
    assert rows["int8"].ratio > rows["int4"].ratio == 0.0
    assert rows["float16"] == OtherTypes(weights="float16")
    show(Result(found).sections(every=True))
    said = capsys.readouterr().out
    assert "weights of float16 are left out: with them a speed-up of 1.6 is out of reach" in said


def test_masks_have_the_types_of_their_grids(small, tmp_path):
    linears = {row.name: row.shape for row in planned_for(small, ratio=0.4).linears}
    masks = {name: assumed_mask(shape, (128, 128), 0.4) for name, shape in linears.items()}
    grids = {
        name: Grid(INT8, np.ones(shape[0], np.float32)) for name, shape in linears.items() if "mlp" in name
    }
    save_masks(masks, tmp_path / "masks.safetensors", grids)
    found = planned_for(small, mask=tmp_path / "masks.safetensors")
    assert {row.name for row in found.linears if row.weights == "int8"} == {*grids}
    assert [row.weights for row in found.types] == ["float16,int8", "float16", "int8", "w8a8", "int4"]
    with refused():
        planned_for(small, mask=tmp_path / "masks.safetensors", weights="int4")


def test_encoders_hear_where_split_is_faster(small, capsys):
    asked = {"ratio": 0.5, "weights": "w8a8", "target": "h100", "batch_size": 32}
    encoder = ROOT / "samples/configs/bert-base"
    found, split = (planned_for(encoder, **asked, lowering=way) for way in ("auto", "split"))
    assert found.by_split == split.whole.end_to_end.speedup > found.whole.end_to_end.speedup
    assert {row.lowering for row in split.linears} == {"split"} and split.by_split is None
    show(Result(found).sections())
    assert "without a plugin (--lowering split): " in capsys.readouterr().out
    assert planned_for(small, **asked).by_split is None
