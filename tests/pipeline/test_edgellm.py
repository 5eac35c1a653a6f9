"""`export --format edgellm` and `build --for edgellm`. The contract with the real exporter is tested by `make edgellm`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import load_file

import patch_compile
from masklearn.masks.maskset import MaskSet
from patch_compile.artifacts.folder import OutFolder
from patch_compile.inspection.onnx_graph import inspect_onnx
from patch_compile.pipeline.edgellm import _TRIED, EdgeLlmExporter, find_exporter
from patch_compile.pipeline.learn import learn
from patch_compile.recipe import Recipe
from patch_compile.sources.checkpoint.references import load_as_compiled
from tests.pipeline.edgellm import PagedModel
from tests.refusals import refused

# The three lengths differ, and the longest decodes together with the shortest.
PROMPTS = ["The capital of France is", "Water", "Once upon a time there was a small house in a forest, and"]
FOLLOWING = [" Paris, and many", " is a liquid that", " an old man lived"]
# A stand-in for the exporter: it writes the folder that Edge-LLM documents, with a graph of the tests' own.
STAND_IN = """
import sys
from pathlib import Path
import numpy as np
from tests.sources.exported_graph.graphs import Exporter, saved, weights_of

def main():
    model, folder = map(Path, sys.argv[1:])
    (folder / "llm").mkdir(parents=True)
    {first}
    saved(Exporter(weights_of(model), custom=True).model(128, 2), folder / "llm" / "model.onnx")
    (folder / "llm" / "config.json").write_text("{{}}")
"""


def stand_in(folder: Path, version: str = _TRIED[-1], first: str = "pass") -> Path:
    """Returns a Python in whose environment a package tensorrt-edgellm with the stand-in is installed."""
    package = folder / "site" / "tensorrt_edgellm" / "scripts"
    package.mkdir(parents=True)
    for part in (package.parent, package):
        (part / "__init__.py").touch()
    (package / "export.py").write_text(STAND_IN.format(first=first))
    described = folder / "site" / f"tensorrt_edgellm-{version}.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: tensorrt-edgellm\nVersion: {version}\n"
    )
    python = folder / "python"
    paths = f"{folder / 'site'}:{Path(__file__).parents[2]}"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{paths}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return python


@pytest.fixture
def out(settings):
    learn(Recipe.parse(settings | {"method": "magnitude", "calib": None}), None)
    return settings["out"]


def test_the_folder_is_the_exporters_with_patch_linears(out, tmp_path):
    exported = patch_compile.export(out, format=f"edgellm={stand_in(tmp_path)}")
    folder = out / "edgellm"
    assert exported.path == folder and exported.report.linears == {"plugin": 14}
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert files == {"llm/config.json", "llm/model.onnx", "llm/model.onnx.data"}
    nodes = onnx.load(folder / "llm" / "model.onnx", load_external_data=False).graph.node
    assert sum(node.domain == "patch" for node in nodes) == 8
    assert sum(node.op_type == "Strange" for node in nodes) == 1
    assert {f"edgellm/{name}" for name in files} <= set(OutFolder.open(out).manifest.files)


def test_chosen_types_come_with_the_masks(settings, tmp_path):
    chosen = {name: value for name, value in settings.items() if name != "ratio"}
    learn(Recipe.parse(chosen | {"bytes_per_weight": 1.0, "weights": "auto", "method": "sparsegpt"}), None)
    out = settings["out"]
    assert Recipe.of_build(out).weights == "auto" and MaskSet.load(out / "masks.safetensors").grids
    exported = patch_compile.export(out, format=f"edgellm={stand_in(tmp_path)}")
    assert exported.report.linears["plugin"] > 0


def test_linears_of_w8a8_reach_its_folder(settings, tmp_path):
    learn(
        Recipe.parse(settings | {"method": "magnitude", "calib": None, "weights": "w8a8,o_proj=int8"}), None
    )
    out = settings["out"]
    patch_compile.export(out, format=f"edgellm={stand_in(tmp_path)}")
    found = inspect_onnx(out / "edgellm/llm/model.onnx")
    types = {row["linear"].rpartition(".")[2]: row["weights"] for row in found.rows}
    assert not found.faults and types.pop("o_proj") == "int8" and {*types.values()} == {"w8a8"}


def test_a_version_that_was_never_tried_is_named(out, tmp_path, capsys):
    patch_compile.export(out, format=f"edgellm={stand_in(tmp_path, '9.1')}")
    assert (
        f"tensorrt-edgellm 9.1 was never tried with patch-compile; tried are {', '.join(_TRIED)}"
        in capsys.readouterr().err
    )


def test_what_a_failed_exporter_said_is_told(out, tmp_path):
    python = stand_in(tmp_path, first='sys.exit("unsupported model\\x1b[2J")')
    with refused():
        patch_compile.export(out, format=f"edgellm={python}")
    assert not (out / "edgellm").exists() and not (out / "edgellm.partial").exists()
    OutFolder.open(out)


def test_an_edgellm_build_reaches_its_folder(settings, tmp_path):
    """By a stand-in, since the real exporter needs an environment of gigabytes; `make edgellm` tests the real exporter."""
    theirs = built_for_edgellm(settings, stand_in(tmp_path))
    assert sum(node.op_type == "Strange" for node in theirs) == 1


def built_for_edgellm(settings: dict[str, Any], python: Path) -> list[onnx.NodeProto]:
    """Build a model of two layers for Edge-LLM, and return the nodes of its graph."""
    chosen = {name: value for name, value in settings.items() if name != "model"} | {"method": "magnitude"}
    patch_compile.build(settings["model"], **chosen, service=f"edgellm={python}")
    out = OutFolder.open(settings["out"])
    proof = json.loads((out.path / "report.json").read_text())["agreement"]  # of the build's own graph
    assert proof["error"] > 0
    files = set(out.manifest.files)
    assert {"onnx/model.onnx", "edgellm/llm/model.onnx", "edgellm/llm/config.json"} <= files
    assert not any(file.startswith("engine/") for file in files)  # Edge-LLM builds its own
    nodes = onnx.load(out.path / "edgellm/llm/model.onnx", load_external_data=False).graph.node
    assert sum(node.domain == "patch" for node in nodes) == 8
    return list(nodes)


def test_without_the_exporter_the_two_commands_are_told(tmp_path):
    for python in (None, tmp_path / "none" / "python"):
        with refused():
            find_exporter(python, Path("OUT"))


def test_bad_edgellm_builds_are_refused_before_work(settings, tmp_path):
    chosen = {name: settings[name] for name in ("ratio", "out", "method")}
    with refused():
        patch_compile.build(settings["model"], **chosen, service="edgellm")
    with refused():
        patch_compile.build(tmp_path / "model.onnx", **chosen, service="edgellm")
    with refused():
        patch_compile.export(settings["out"], format=f"compressed-tensors={sys.executable}")
    assert not settings["out"].exists()


@pytest.fixture(scope="module")
def edgellm() -> EdgeLlmExporter:
    python = Path(os.environ.get("PATCH_COMPILE_EDGELLM_PYTHON", ".cache/edgellm/bin/python"))
    if not python.is_file():
        pytest.skip(f"Edge-LLM's exporter is not installed in {python}: `make edgellm` installs it")
    return find_exporter(python.absolute(), Path("OUT"))


@pytest.mark.edgellm
def test_the_real_exporter_reaches_its_folder(edgellm, settings):
    # The exporter refuses a model without a chat template.
    (settings["model"] / "chat_template.jinja").write_text("{{ messages[0].content }}")
    theirs = built_for_edgellm(settings, edgellm.python)
    assert sum(node.op_type == "AttentionPlugin" for node in theirs) == 2


@pytest.mark.edgellm
@pytest.mark.model
def test_edge_llms_smollm2_equals_transformers(edgellm, sample_model, tmp_path):
    """Three sequences of different lengths, prefill and decode, in pages, with an AttentionPlugin of the tests."""
    out = tmp_path / "out"
    settings = {
        "method": "magnitude",
        "ratio": 0.35,
        "tile": (64, 64),
        "lowering": "plugin",
        "repair": "none",
    }
    learn(Recipe.parse(settings | {"model": sample_model, "out": out, "backend": "onnx"}), None)
    patch_compile.export(out, format=f"edgellm={edgellm.python}")
    folder = out / "edgellm" / "llm"
    edgellm.export(out / "model", tmp_path / "exported")
    theirs = tmp_path / "exported" / "llm"
    assert {file.name for file in folder.iterdir()} == {file.name for file in theirs.iterdir()}
    check_the_rest(theirs / "model.onnx", folder / "model.onnx", len(MaskSet.load(out / "masks.safetensors")))

    onnx.shape_inference.infer_shapes_path(str(folder / "model.onnx"), str(folder / "inferred.onnx"))
    inferred = onnx.load(folder / "inferred.onnx", load_external_data=False).graph
    known = {value.name for value in inferred.value_info}
    assert all(node.output[0] in known for node in inferred.node if node.domain == "patch")

    check_numbers(out, folder)


def check_numbers(out: Path, folder: Path) -> None:
    """In fp16 a few tokens of a pruned model have activations that amplify roundings. The bound is twice what these do in
    transformers, and at least a twentieth of the spread of the logits."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    prompts, following = ([tokenizer(text)["input_ids"] for text in texts] for texts in (PROMPTS, FOLLOWING))
    assert len({*map(len, prompts)}) == len(prompts)
    (embedding,) = load_file(folder / "embedding.safetensors").values()
    config = json.loads((folder / "config.json").read_text())
    paged = PagedModel(folder / "model.onnx", embedding, config, capacity=140)
    wide, narrow = (
        load_as_compiled(out / "model", "float16", out / "masks.safetensors", sixteen_bits=bits)
        for bits in (False, True)
    )
    texts, logits, near = [list(one) for one in prompts], paged.start(prompts), 0
    steps = min(map(len, following))
    for step in range(steps + 1):
        for text, found in zip(texts, logits, strict=True):
            expected = reference(wide, text)
            least, error = 0.05 * expected.std(), np.abs(found - expected).max()
            amplified = np.abs(reference(narrow, text) - expected).max()
            assert error < max(least, 2 * amplified), (step, len(text))
            near += bool(error < least)
        if step < steps:
            texts = [[*text, one[step]] for text, one in zip(texts, following, strict=True)]
            logits = paged.go_on([[one[step]] for one in following])
    # The wide bound may hide a fault, so two thirds of all logits must keep the narrow one: 2 of 3 sequences a step.
    assert near >= 2 * (steps + 1)


def check_the_rest(before: Path, after: Path, linears: int) -> None:
    """All nodes except products and operations fused to them, all inputs and all outputs equal the export byte for byte."""
    one, other = (onnx.load(path, load_external_data=False).graph for path in (before, after))
    bytes_of = [
        [node.SerializeToString(deterministic=True) for node in graph.node if node.domain != "patch"]
        for graph in (one, other)
    ]
    left = {*bytes_of[1]}
    assert [node for node in bytes_of[0] if node in left] == bytes_of[1]
    gone = {node.op_type for node in one.node if node.SerializeToString(deterministic=True) not in left}
    assert gone == {"MatMul", "Sigmoid", "Mul", "Add"}
    joined = [node for node in other.node if node.domain == "patch"]
    assert len(joined) == linears * 4 // 7  # q, k and v are one node, and so are gate and up
    for field in ("input", "output"):
        assert [value.SerializeToString(deterministic=True) for value in getattr(one, field)] == [
            value.SerializeToString(deterministic=True) for value in getattr(other, field)
        ]


def reference(model: torch.nn.Module, text: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([text])).logits[0, -1].float().numpy()
