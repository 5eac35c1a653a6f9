"""A quantised checkpoint built, exported as compressed-tensors, and loaded by the library."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from masklearn.masks.maskset import MaskSet
from masklearn.model.checkpoint import Checkpoint
from patch_compile.artifacts.folder import OutFolder
from patch_compile.cli.app import cli
from patch_compile.errors import PatchCompileError
from tests.builds import build
from tests.masklearn.model.quantised.writers import awq, compressed_tensors, gptq, scheme
from tests.refusals import refused


def run(*words: Any) -> Any:
    return CliRunner().invoke(cli, list(map(str, words)))


@pytest.fixture
def quantised(settings: dict[str, Any], make_model: Any) -> dict[str, Any]:
    model = make_model(hidden_size=128, intermediate_size=192, num_hidden_layers=1, dtype=torch.float16)
    return settings | {"model": model}


def test_from_gptq_to_compressed_tensors(quantised: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    gptq(quantised["model"], 4, 64)
    given, out = Checkpoint.open(quantised["model"]), Path(quantised["out"])
    report = build(quantised)
    assert {linear["weights"] for linear in report["linears"]} == {"int4"}
    masks = MaskSet.load(out / "masks.safetensors")
    for name, grid in masks.grids.items():
        np.testing.assert_array_equal(grid.scales, given.grids[name].scales)
    first = run("export", out, "--json")
    assert first.exit_code == 0, first.output
    answer = json.loads(first.stdout)
    assert answer["linears"] == {"int4": 7} and answer["notes"] == []
    assert answer["bytes"] < answer["model_bytes"]
    again = run("export", out)
    assert "linears: 7 int4" in again.stdout and again.exit_code == 0
    recorded = OutFolder.open(out).manifest.stages["compressed-tensors"].files
    folder = out / "compressed-tensors"
    assert {str(file.relative_to(out)) for file in folder.rglob("*")} == set(recorded)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16)
    model(torch.tensor([[1, 2, 3]]))
    found = model.state_dict()
    for name, weight in load_file(out / "model" / "model.safetensors").items():
        assert torch.equal(found[name], weight), name


def test_zero_points_cost_16_bits_in_plans_and_builds(quantised: dict[str, Any], tmp_path: Path) -> None:
    awq(quantised["model"], 64, zero_point=True)
    said = "quantised with zero points or to fp8, which no tile holds: 7 linears"
    shutil.copy(quantised["model"] / "config.json", tmp_path)
    planned = ("plan", tmp_path, "--ratio", 0.4, "--target", "a6000")
    assert said in run(*planned).stdout
    assert {row["weights"] for row in json.loads(run(*planned, "--json").stdout)["linears"]} == {"float16"}
    report = build(quantised | {"method": "sparsegpt"})
    assert {linear["weights"] for linear in report["linears"]} == {"float16"}
    assert any(note.startswith(said) for note in report["notes"])
    again = build(quantised | {"method": "sparsegpt", "weights": "int4", "seed": 1, "out": tmp_path / "int4"})
    assert {linear["weights"] for linear in again["linears"]} == {"int4"}


def test_foreign_scale_types_are_refused_before_work(quantised: dict[str, Any]) -> None:
    compressed_tensors(quantised["model"], scheme(4, 64))
    with refused():
        build(quantised | {"dtype": "bfloat16"})
    assert not Path(quantised["out"]).exists()


def test_a_build_without_quantised_linears_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    learned = run("learn", settings["model"], "-o", tmp_path / "l", "--ratio", "0.4", "--method", "magnitude")
    assert learned.exit_code == 0, learned.output
    before = sorted((tmp_path / "l").rglob("*"))
    caught = run("export", tmp_path / "l")
    assert isinstance(caught.exception, PatchCompileError)
    assert "has no quantised linears" in caught.exception.what
    assert sorted((tmp_path / "l").rglob("*")) == before


def test_given_masks_keep_quantised_types(quantised: dict[str, Any], tmp_path: Path) -> None:
    dense = run("learn", quantised["model"], "-o", tmp_path / "l", "--ratio", "0.4", "--method", "magnitude")
    assert dense.exit_code == 0, dense.output
    masks = tmp_path / "l" / "masks.safetensors"
    compressed_tensors(quantised["model"], scheme(8, None))
    compiled = run(
        "compile", quantised["model"], "-o", tmp_path / "c", "--mask", masks, "--lowering", "plugin", "--json"
    )
    assert compiled.exit_code == 0, compiled.output
    assert {linear["weights"] for linear in json.loads(compiled.stdout)["linears"]} == {"int8"}
    caught = run("export", tmp_path / "c")
    assert "holds no pruned checkpoint" in caught.exception.what
    inspected = json.loads(run("inspect", quantised["model"], "--json").stdout)
    assert inspected["faults"] == [] and inspected["quantised, shown as dense"] == {"int8": 7}
    planned = run("plan", quantised["model"], "--ratio", "0.4", "--target", "a6000", "--json")
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout)["weights"] == "int8"
