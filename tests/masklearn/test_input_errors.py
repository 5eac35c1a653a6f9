"""Linears of w8a8 whose inputs are hard to round are named, and keep inputs of 16 bits where int8 is allowed too."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from masklearn.input_errors import InputErrors, input_errors
from masklearn.learning import Learned, learn
from masklearn.masks.weight_types import leaves_choice, needs_goal, quantised_types
from masklearn.model.rounded_inputs import inputs_rounded
from masklearn.quant.table import INT8, W8A8
from masklearn.recipe import LearnRecipe
from masklearn.stream.blocks import stream_blocks
from tests.conftest import ModelMaker
from tests.masklearn.tasks import task_of
from tests.refusals import refused

HARD = "encoder.layer.1.output.dense"


def with_a_hard_input(path: Path) -> Path:
    """Channels that differ by far make a hard input if all count alike. Behind an activation nothing takes scales in."""
    file = path / "model.safetensors"
    tensors = load_file(file)
    tensors["encoder.layer.1.intermediate.dense.weight"][::16] *= 64
    tensors[f"{HARD}.weight"][:, ::16] /= 64
    save_file(tensors, file, {"format": "pt"})
    return path


def recipe(text: Path, **settings: Any) -> LearnRecipe:
    given = {
        "tile": (32, 64),
        "calib": str(text),
        "windows": 2,
        "length": 16,
        "repair": "none",
        "ratio": 0.25,
    }
    return LearnRecipe.parse(given | settings)


def learned(path: Path, scratch: Path, asked: LearnRecipe) -> tuple[Learned, list[str]]:
    notes: list[str] = []
    return learn(path, asked, scratch, note=notes.append), notes


def test_an_error_is_the_change_of_the_block(make_model: ModelMaker, text_file: Path) -> None:
    task = task_of(with_a_hard_input(make_model("bert")), recipe(text_file))
    found = input_errors(task, [HARD, "encoder.layer.0.attention.output.dense"]).errors
    windows = task.text.calibration()
    for block in stream_blocks(task.checkpoint, windows):
        for name in found.keys() & block.linears.keys():
            squares = []
            for hidden in block.hidden:
                plain = block.run(hidden)
                with inputs_rounded({name: block.linears[name]}):
                    change = block.run(hidden) - plain
                squares.append((change.norm(dim=-1) / plain.norm(dim=-1)) ** 2)
            assert found[name] == pytest.approx(float(torch.stack(squares).mean().sqrt()), rel=1e-5)


def test_hard_is_far_from_the_usual() -> None:
    found = InputErrors({"a": 1.0, "b": 1.1, "c": 0.9, "d": 6.5, "e": 6.7, "f": 9.0, "g": 0.1})
    assert found.hard == ["f", "e"]
    record = found.record({"f"})
    assert record.kept == ("f",) and record.usual == 1.1
    assert record.worst == (("e", 6.7), ("d", 6.5), ("b", 1.1))


def test_hard_inputs_keep_16_bits(make_model: ModelMaker, text_file: Path, tmp_path: Path) -> None:
    path = with_a_hard_input(make_model("bert"))
    asked = recipe(text_file, windows=12, method="sparsegpt", weights="w8a8,int8,query=w8a8,key=int8")
    found, notes = learned(path, tmp_path / "a", asked)
    record = found.masks.record.rounded_inputs
    assert record is not None and record.kept == (HARD,) and len(record.worst) == 3
    types = {name: grid.type for name, grid in found.masks.grids.items()}
    assert {name for name, kind in types.items() if kind is INT8 and not name.endswith("key")} == {HARD}
    assert notes == [f"1 linears keep inputs of 16 bits (int8): {HARD}"]


def test_plain_w8a8_rounds_all_inputs_unmeasured(
    make_model: ModelMaker, text_file: Path, tmp_path: Path
) -> None:
    asked = recipe(text_file, windows=12, method="sparsegpt", weights="w8a8")
    found, notes = learned(with_a_hard_input(make_model("bert")), tmp_path / "a", asked)
    assert {grid.type for grid in found.masks.grids.values()} == {W8A8} and not notes
    assert found.masks.record.rounded_inputs is None


def test_int8_or_w8a8_needs_no_goal(text_file: Path) -> None:
    assert leaves_choice("w8a8,int8") and not needs_goal("w8a8,int8") and not needs_goal("w8a8")
    assert needs_goal("auto") and needs_goal("w8a8,int8,mlp.*=int8,int4") and not needs_goal(None)
    assert quantised_types("int8,w8a8", {"up": (64, 64)}) == {"up": W8A8}
    with refused():
        quantised_types("w8a8,int4", {"up": (64, 64)})
