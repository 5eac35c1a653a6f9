"""Decoders without a row: their structure gives what transformers computes, or the refusal names the difference."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from masklearn.model.architectures import ARCHITECTURES, architecture_at
from masklearn.model.checkpoint import Checkpoint
from masklearn.model.coverage import covered_linears, covered_linears_of
from masklearn.model.known_architectures import Architecture
from masklearn.model.naming import from_stored, tied_name
from masklearn.model.structure import structure_of
from tests.conftest import ModelMaker
from tests.families import FAMILIES, IN_EVERY_RUN, MIXTURES, RENAMED, write_family
from tests.masklearn.stream.logits import check_logits
from tests.refusals import refused

WINDOWS = np.random.default_rng(0).integers(2, 60, (2, 16))


def row_of(path: Path) -> Architecture:
    return Checkpoint.open(path).architecture


@pytest.mark.parametrize(
    "name",
    [
        name if name in IN_EVERY_RUN else pytest.param(name, marks=pytest.mark.families)
        for name in (*FAMILIES, *sorted(set(MIXTURES) - set(ARCHITECTURES)))
    ],
)
def test_streamed_blocks_give_transformers_logits(name: str, tmp_path: Path) -> None:
    path = write_family(tmp_path / "model", name)
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    assert check_logits(path, model, WINDOWS, rtol=1e-3)[-1]
    coverage = covered_linears(path)
    assert coverage.linears and not any(
        "experts." in linear for linear in coverage.linears if "shared" not in linear
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("granite", {"mlp": (("gate_proj", "up_proj"), "down_proj"), "qkv": ("q_proj", "k_proj", "v_proj")}),
        ("glm4", {"mlp": (("gate_up_proj",), "down_proj"), "qkv": ("q_proj", "k_proj", "v_proj")}),
        ("falcon", {"mlp": (("dense_h_to_4h",), "dense_4h_to_h"), "qkv": (), "blocks": "transformer.h"}),
        ("gptj", {"mlp": (("fc_in",), "fc_out"), "qkv": ("k_proj", "v_proj", "q_proj")}),
        ("xglm", {"mlp": (("fc1",), "fc2"), "positions": None}),
        (
            "gpt_neo",
            {"positions": 0, "tail": ("transformer.ln_f", "lm_head"), "prefixes": ("transformer.", "")},
        ),
        ("biogpt", {"head": "output_projection", "tail": ("biogpt.layer_norm", "output_projection")}),
        ("deepseek_v2", {"qkv": (), "linears": ()}),
        ("olmoe", {"gates": (), "linears": (), "mlp": (("gate_proj", "up_proj"), "down_proj")}),
    ],
)
def test_what_the_structure_shows(name: str, found: dict[str, Any], tmp_path: Path) -> None:
    row = row_of(write_family(tmp_path / "model", name))
    assert {field: getattr(row, field) for field in found} == found
    assert row.own_masks


@pytest.mark.parametrize(
    "model_type", ["llama", "gemma2", "phi3", "gpt2", "gpt_neox", "qwen2_moe", "qwen3_moe"]
)
def test_architecture_rows_equal_the_structure_found(make_model: ModelMaker, model_type: str) -> None:
    """Rows of the table, and what would be found without them."""
    shown, row = structure_of(AutoConfig.from_pretrained(make_model(model_type))), ARCHITECTURES[model_type]
    assert {end.lstrip(".") for end in shown.gates} == set(row.gates)
    assert (shown.conv1d, shown.positions) == (row.conv1d, row.positions)
    for field in ("base", "embedding", "blocks", "tail", "head", "prefixes", "linears", "mlp", "qkv"):
        assert getattr(shown, field) == getattr(row, field), field


def test_conv1d_without_a_row_is_refused(make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_model("gpt2")
    others = {name: row for name, row in ARCHITECTURES.items() if name != "gpt2"}
    monkeypatch.setattr("masklearn.model.architectures.ARCHITECTURES", others)
    with refused():
        row_of(path)


REFUSED = {
    "mamba": {},
    "openai-gpt": {},
    "t5": {"num_layers": 2},
    "llava": {},
    "vit": {},
    "modernbert-decoder": {"hidden_size": 64, "num_attention_heads": 4},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_differs_first_is_the_reason(name: str, tmp_path: Path) -> None:
    AutoConfig.for_model(name, **REFUSED[name]).save_pretrained(tmp_path)
    with refused():
        _ = Checkpoint.of_config(tmp_path).architecture


@pytest.mark.parametrize("name", RENAMED)
def test_tensors_without_place_are_named(name: str, tmp_path: Path) -> None:
    with refused():
        covered_linears(write_family(tmp_path / "model", name))


def test_the_architecture_is_found_once_and_not_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Architecture] = []

    def find(*arguments: Any, **settings: Any) -> Architecture:
        found.append(architecture_at(*arguments, **settings))
        return found[-1]

    monkeypatch.setattr("masklearn.model.checkpoint.architecture_at", find)
    checkpoint = Checkpoint.open(write_family(tmp_path / "model", "granite"))
    for name in checkpoint.names():
        from_stored(checkpoint, name, checkpoint.read(name))
    assert found == []
    covered_linears_of(checkpoint)
    assert tied_name(checkpoint, "lm_head.weight") == "model.embed_tokens.weight"
    assert found == [checkpoint.rounding_inputs(()).architecture]
