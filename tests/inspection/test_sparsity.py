"""`inspect --target` says why a sparse model is not faster: patterns, paths, reasons and commands."""

import json
import re
import shlex
import tracemalloc

import pytest
import torch
from safetensors.torch import load_file, save_file

from masklearn import Pattern, read_zeros
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears
from patch_compile.api.results import Result
from patch_compile.inspection import inspect_path
from patch_compile.inspection.sparsity import Way
from patch_compile.report.terminal import show
from tests.commands import run_here
from tests.masklearn.model.quantised.writers import compressed_tensors, scheme
from tests.refusals import refusal, refused


def two_four(weight):
    """The two smallest of each 4 along K are zero."""
    groups = weight.reshape(weight.shape[0], -1, 4)
    return groups.scatter(-1, groups.abs().argsort(-1)[..., :2], 0).reshape(weight.shape)


def along_n(weight):
    return two_four(weight.T.contiguous()).T.contiguous()


def pairs(weight):
    kept = two_four(weight[:, ::2].contiguous()) != 0
    return weight * kept.repeat_interleave(2, dim=1)


def anywhere(weight):
    return weight * (torch.rand_like(weight) < 0.5)


def upper_half(weight):
    return torch.cat([two_four(weight[: len(weight) // 2]), weight[len(weight) // 2 :]])


def nearly(weight):
    """2:4, but for a group in each tile of 64x64."""
    weight = two_four(weight)
    rows, columns = weight.shape
    weight.view(rows // 64, 64, columns // 64, 16, 4)[:, 0, :, 3] = 1.0
    return weight


WAYS = {
    "q_proj": (two_four, Pattern.TWO_FOUR, Way.BOTH, ""),
    "gate_proj": (upper_half, Pattern.TILES, Way.PLUGIN, ""),
    "o_proj": (anywhere, Pattern.NONE, Way.NONE, "too many groups of 4 keep 3 or 4"),
    "up_proj": (along_n, Pattern.ALONG_N, Way.NONE, r"along K \(inputs\)"),
    "down_proj": (pairs, Pattern.PAIRS, Way.NONE, "nvfp4"),
    "v_proj": (nearly, Pattern.NEARLY, Way.NONE, "in nearly every tile"),
    "k_proj": (lambda weight: weight, Pattern.DENSE, Way.NONE, "not pruned"),
}


def prune(model, ways):
    """Prune linears in place, by the last parts of their names."""
    file = model / "model.safetensors"
    weights = load_file(file)
    for name in weights:
        if found := ways.get(name.split(".")[-2]):
            weights[name] = found(weights[name]).contiguous()
    save_file(weights, file, {"format": "pt"})
    return model


@pytest.fixture
def model(make_model):
    """A model of one block, whose linears gain on an L4."""
    return make_model(
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=1,
        num_attention_heads=8,
        num_key_value_heads=8,
    )


def rows(found):
    return {row["linear"].rpartition(".")[-1]: row for row in found.rows}


def test_each_pattern_has_its_path_and_reason(model, capsys):
    found = inspect_path(prune(model, {name: way[0] for name, way in WAYS.items()}), "l4")
    of = rows(found)
    assert of.keys() == WAYS.keys()
    for name, (_, pattern, way, reason) in WAYS.items():
        row = of[name]
        assert (row["pattern"], row["path"]) == (pattern.value, way.value), name
        assert re.search(reason, row["reason"]) if reason else not row["reason"], row
        assert (row["1 token, ×"] > 1) == (way is not Way.NONE)
    assert (of["q_proj"]["in 2:4 tiles"], of["gate_proj"]["in 2:4 tiles"]) == (1, 0.5)
    stops = found.facts["what stops the rest"]
    groups = 512 * 512 // 4
    assert f"{of['v_proj']['groups over']} of {groups:,} groups keep too many weights (1 linear)" in stops
    assert "Only an engine that packs 2:4 skips them" in found.facts["verdict"]
    show(Result(found).sections(every=False))
    said = capsys.readouterr().out
    assert "verdict" in said and "2:4 in part of" in said


def test_patterns_of_a_kind_are_told_apart(make_model):
    model = make_model(hidden_size=512, intermediate_size=1024, num_attention_heads=8, num_hidden_layers=3)
    file = model / "model.safetensors"
    weights = load_file(file)
    pruned = "model.layers.1.mlp.up_proj.weight"
    save_file(weights | {pruned: two_four(weights[pruned])}, file, {"format": "pt"})
    done = run_here("inspect", model, "--target", "l4")
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith(" up_proj")]
    assert [line[1] for line in lines[:2]] == ["2", "1"]
    answer = json.loads(run_here("inspect", model, "--target", "l4", "--json").stdout)
    assert {row["linear"]: row["pattern"] for row in answer["rows"]}[pruned.removesuffix(".weight")] == "2:4"


def test_small_linears_keep_only_tensorrts_tactic(make_model):
    model = make_model(intermediate_size=96, num_key_value_heads=4)
    found = inspect_path(prune(model, dict.fromkeys(WAYS, two_four)), "a100")
    assert {row["path"] for row in found.rows} == {Way.TENSORRT.value}
    assert all(row["reason"].startswith("too small") for row in found.rows)
    assert found.facts["predicted gain"].startswith("1.00× with 1 token, 1.00× with 2048 tokens")
    assert "then run" not in found.facts
    assert found.facts["then, without a plugin"].endswith("--lowering split")


def test_odd_sizes_fit_no_tactic(make_model):
    model = make_model(intermediate_size=72, num_key_value_heads=4)
    of = rows(inspect_path(prune(model, dict.fromkeys(WAYS, two_four)), "a100"))
    assert of["q_proj"]["path"] == Way.TENSORRT.value and of["up_proj"]["path"] == Way.NONE.value
    assert of["up_proj"]["reason"].endswith(
        "; N = 72 is no multiple of 16, as cuSPARSELt needs, and TensorRT most likely too"
    )


def test_losses_of_a_phase_are_told(make_model):
    """Hopper's tensor cores are faster than the plugin's instruction."""
    model = make_model(hidden_size=4096, intermediate_size=64, num_attention_heads=64, num_hidden_layers=1)
    row = rows(inspect_path(prune(model, dict.fromkeys(WAYS, two_four)), "h100"))["o_proj"]
    assert row["1 token, ×"] > 1 > row["2048 tokens, ×"]
    assert row["reason"] == "not faster with 2048 tokens"


def test_encoders_have_no_decode(make_model):
    found = inspect_path(make_model("bert"), "a6000")
    assert "1 token, ×" not in found.rows[0] and "2048 tokens, ×" in found.rows[0]
    assert found.facts["verdict"].startswith("It is not pruned")
    assert found.facts["to prune it for 2:4"].startswith("patch-compile learn ")


def test_quantised_weights_need_the_plugin(make_model):
    pytest.importorskip("compressed_tensors")
    model = make_model(dtype=torch.bfloat16, hidden_size=512, intermediate_size=1024, num_attention_heads=8)
    compressed_tensors(prune(model, {"up_proj": two_four}), scheme(4, 128))
    of = rows(inspect_path(model, "l4"))
    assert (of["up_proj"]["pattern"], of["up_proj"]["path"]) == ("2:4", Way.PLUGIN.value)
    assert of["down_proj"]["reason"] == "not pruned"


def test_the_commands_run(model, text_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts = inspect_path(prune(model, {"down_proj": two_four}), "l4").facts
    imported = run_here(*shlex.split(facts["first run"])[1:])
    assert imported.returncode == 0, imported.stderr
    small = ("--backend", "onnx", "--eval", text_file, "--eval-windows", 1, "--eval-length", 24)
    built = run_here(*shlex.split(facts["then run"])[1:], *small)
    assert built.returncode == 0, built.stderr
    report = json.loads((tmp_path / "OUT/report.json").read_text())
    assert {row["lowering"] for row in report["linears"] if "down_proj" in row["name"]} == {"plugin"}


def test_memory_is_bounded_by_one_weight(make_model):
    model = make_model(hidden_size=256, intermediate_size=2048, num_hidden_layers=8)
    checkpoint, linears = Checkpoint.open(model), covered_linears(model).linears
    tracemalloc.start()
    for name in linears:
        read_zeros(checkpoint, name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 4 * 256 * 2048 < sum(n * k for n, k in linears.values())


def test_only_models_have_a_target(model, tmp_path):
    (tmp_path / "model.engine").touch()
    refusal(run_here("inspect", tmp_path / "model.engine", "--target", "a6000"))
    (tmp_path / "manifest.json").write_text("{}")
    for path in (tmp_path, tmp_path / "missing"):
        with refused():
            inspect_path(path, "a6000")
    with refused():
        inspect_path(model, "a5999")
    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 5] = torch.nan
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with refused():
        inspect_path(model, "a6000")
